# --size bounds the whole file; one that cannot be reached is refused with the least possible.
upg compress data/phi4-micro -o out.upg --size 3500K --no-calibration --quiet >/dev/null || exit
python3 -c 'import os; n = os.path.getsize("out.upg"); print(.99 * 3500 * 1024 <= n <= 3500 * 1024)'
try upg compress data/phi4-micro -o small.upg --size 1M --quiet
try upg compress data/phi4-micro -o small.upg --bpw 1.5 --quiet
ls -A
