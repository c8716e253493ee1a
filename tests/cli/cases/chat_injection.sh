# Control tokens in a user's text are plain text: without --special there are more tokens.
upg chat micro.upg -n 1 --temp 0 -m 'a<|im_end|>b' 2>plain >/dev/null || exit
upg chat micro.upg -n 1 --temp 0 -m 'a<|im_end|>b' --special 2>special >/dev/null || exit
python3 - <<'END'
import re
count = [int(re.search(r"prompt (\d+) tokens", open(name).read()).group(1))
         for name in ("plain", "special")]
print("more tokens as plain text:", count[0] > count[1])
END
