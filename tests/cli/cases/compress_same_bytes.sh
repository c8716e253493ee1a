# Equal input and options give equal bytes, whatever the number of threads.
upg compress data/phi4-micro -o one.upg --no-calibration --quiet --threads 1 >/dev/null || exit
upg compress data/phi4-micro -o two.upg --no-calibration --quiet --threads 2 >/dev/null || exit
cmp one.upg two.upg && cmp one.upg micro.upg && echo equal
