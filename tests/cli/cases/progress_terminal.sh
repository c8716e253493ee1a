# On a terminal a bar that redraws itself; otherwise plain lines.
printf 'wait [####\nwait 100 %%\n' >script
SPLIT_STDOUT=1 on_terminal script upg compress data/phi4-micro -o one.upg --no-calibration
upg compress data/phi4-micro -o two.upg --no-calibration 2>log >/dev/null
grep -c '\[' log
grep -o '^encode  *100 %' log
