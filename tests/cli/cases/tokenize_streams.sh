# Each line is answered at once: a program can keep the command running.
python3 - <<'END'
import json, subprocess
job = subprocess.Popen(["upg", "tokenize", "data/phi4-micro"], stdin=subprocess.PIPE,
                       stdout=subprocess.PIPE, text=True)
for text in ("one", "two", "three"):
    print(json.dumps({"text": text}), file=job.stdin, flush=True)
    print(len(json.loads(job.stdout.readline())["ids"]) > 0)
job.stdin.close()
print("exit", job.wait())
END
