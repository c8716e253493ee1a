# Special-token text in a prompt is plain text, unless --special is given.
upg run micro.upg -p "<|im_start|>" -n 1 --temp 0 2>plain >/dev/null || exit
upg run micro.upg -p "<|im_start|>" -n 1 --temp 0 --special 2>special >/dev/null || exit
grep -o 'prompt [0-9]* tokens' plain special
