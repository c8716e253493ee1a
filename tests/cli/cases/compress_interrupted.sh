# Ctrl-C while it works: exit code 130, and no file of any name is left.
mkdir out
python3 - <<'END'
import signal, subprocess, time
job = subprocess.Popen(["upg", "compress", "data/phi4-micro", "-o", "out/out.upg", "--no-calibration", "--threads", "1"],
                       stderr=subprocess.PIPE, stdout=subprocess.PIPE)
# The temporary file shows that the work has begun.
import os
deadline = time.monotonic() + 60
while not os.listdir("out") and job.poll() is None and time.monotonic() < deadline:
    time.sleep(.002)
job.send_signal(signal.SIGINT)
job.communicate()
print("exit", job.returncode)
END
ls -A out
