# Statistics go to stderr: the device, prompt and decode speed, why it ended.
upg run micro.upg -p "It was a dark" -n 5 --temp 0 2>log >/dev/null
sed -E 's/[0-9]+\.[0-9]+ tok/X tok/g; s/cpu .*/cpu .../' log
