# An output that exists is refused and left alone; --force replaces it.
echo precious >out.upg
try upg compress data/phi4-micro -o out.upg
cat out.upg
upg compress data/phi4-micro -o out.upg --no-calibration --quiet --force >/dev/null || exit
upg verify out.upg --quiet
ls -A
