# Ctrl-C while it writes: exit code 130, and what was written is a beginning of the whole text.
python3 - <<'END'
import signal, subprocess
words = ["upg", "run", "data/phi4-micro", "-p", "It was a dark", "-n", "900", "--temp", "1", "--device", "ref",
         "--seed", "3"]
job = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
first = job.stdout.read(10)
job.send_signal(signal.SIGINT)
rest, log = job.communicate()
assert len(first + rest) >= 10 and b"interrupted" in log, log
print("exit", job.returncode)
END
