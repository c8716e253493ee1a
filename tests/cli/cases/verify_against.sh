# Every matrix's error measured again: equal to what the file says; another checkpoint is found.
upg verify micro.upg --against data/phi4-micro -q >table || exit
sed -n '1,3p' table | tr -s ' ' | sed 's/0\.[0-9]*/N/g'
grep -c '^model.*[0-9]$' table
grep -c differs table
upg verify micro.upg --against data/phi4-micro -q --json >objects || exit
python3 - <<'END'
import json
checks = [json.loads(line) for line in open("objects")]
assert len(checks) == 39 and all(c["agrees"] for c in checks), checks
coded = [c for c in checks if c["stored"] > 0]
assert len(coded) == 30 and all(abs(c["measured"] / c["stored"] - 1) < 1e-3 for c in coded), coded
END
upg synth other --arch phi4-micro -q
upg verify micro.upg --against other -q >table
echo "other weights: exit $?, $(grep -c differs table) differ"
upg synth shorter --arch phi4-micro --layers 1 -q
try upg verify micro.upg --against shorter -q
try upg verify micro.upg --against none -q
try upg verify micro.upg --json
cp micro.upg bad.upg
tamper flip bad.upg 2000000
upg verify bad.upg --against data/phi4-micro -q >out
echo "damaged: exit $?, $(wc -l <out) line"
cp micro.upg bad.upg
tamper flip bad.upg -60
upg verify bad.upg -q | grep -o 'first bad chunk at byte'
