# Ctrl-C while it works: exit code 130, only the journal is left; without --resume it is refused, with
# it the work goes on to the same bytes.
mkdir out
python3 - <<'END'
import signal, subprocess, time
job = subprocess.Popen(["upg", "compress", "data/phi4-micro", "-o", "out/out.upg", "--no-calibration", "--threads", "1"],
                       stderr=subprocess.PIPE, stdout=subprocess.PIPE)
# The first matrix in the journal shows that the work has begun.
import os
deadline = time.monotonic() + 60
while not os.path.exists("out/out.upg.journal/m000000") and job.poll() is None and time.monotonic() < deadline:
    time.sleep(.002)
job.send_signal(signal.SIGINT)
job.communicate()
print("exit", job.returncode)
END
ls -A out
try upg compress data/phi4-micro -o out/out.upg --no-calibration --quiet 2>&1
try upg compress data/phi4-micro -o out/out.upg --no-calibration --quiet --resume --seed 3 2>&1
try upg compress data/phi4-micro -o out/out.upg --no-calibration --resume --json-progress 2>&1 >/dev/null |
    grep '"stage":"encode"' | tail -n 1 | sed -E 's/"rate":[^,]*/"rate":R/; s/left":[^,]*/left":S/; s/"loss":[^}]*/"loss":L/'
try upg compress data/phi4-micro -o once.upg --no-calibration --no-journal --quiet >/dev/null
cmp once.upg out/out.upg && echo same
ls -A out
