# The text ends before the first stop string met, wherever tokens begin and end.
upg run data/phi4-micro -p "It was a dark" -n 40 --temp 0 --quiet >whole || exit
python3 - <<'END'
import subprocess
whole = open("whole", encoding="utf-8").read()
for first in range(5, 45, 4):
    for length in (1, 2, 7):
        stop = whole[first:first + length]
        got = subprocess.run(["upg", "run", "data/phi4-micro", "-p", "It was a dark", "-n", "40",
                              "--temp", "0", "--quiet", "--stop", "never met", "--stop", stop],
                             capture_output=True, text=True, check=True).stdout
        assert got == whole[:whole.index(stop)], (stop, got)
print("all equal")
END
