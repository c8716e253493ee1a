# The way out: a folder that runs as the file does (weights in bf16, and products in fp32 or int8 of
# the same size), and compresses again; what is refused.
upg export micro.upg out -q || exit
ls out
cmp out/config.json data/phi4-micro/config.json && cmp out/tokenizer.json data/phi4-micro/tokenizer.json
head -c 20000 data/phi4-micro/tokenizer.json | tr -cs 'a-z\n' ' ' >text
upg eval micro.upg --against out --text text --windows 3 --json -q >result 2>/dev/null || exit
python3 - <<'END'
import json
r = json.load(open("result"))
assert abs(r["ppl_ratio"] - 1) < 0.01, r
assert r["kl_mean"] < 0.003, r
END
upg export micro.upg parts --shard-size 4M -q --to safetensors && ls parts
try upg export micro.upg out -q
try upg export micro.upg other --to gguf
try upg export none.upg other -q
cp micro.upg bad.upg
tamper flip bad.upg 100
upg export bad.upg other -q 2>/dev/null
echo "damaged: exit $?"
ls
