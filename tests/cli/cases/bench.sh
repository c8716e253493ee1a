# The JSON form holds the measured and the limit.
upg bench micro.upg -n 8 -p 16 -r 5 -t 1 --json --quiet >result || exit
json_keys model device load load_s first_token_s read_gb_s.1 int8_peak int8_peak_by_threads.1 <result
python3 -c 'import json
result = json.load(open("result"))
for case in result["cases"]:
    reads = result["read_gb_s"][str(case["threads"])]
    share = case["bytes_per_token"] * case["tok_s"] / reads / 1e9
    print(case["name"], case["repetitions"], case["min"] <= case["tok_s"] <= case["max"],
          abs(case["tok_s"] * case["spread"] - case["max"] + case["min"]) < 1e-3 * case["max"],
          abs(share - case["bandwidth_fraction"]) < 1e-3 * share, "int8_fraction" in case)'
# Depths and thread counts, in turn; deeper tokens read more: keys and values with their scales.
upg bench micro.upg -n 4 -p 4 -r 5 -d 0,100 --sweep 1,2 --kv-int8 --json --quiet |
    python3 -c 'import json, sys
cases = json.load(sys.stdin)["cases"]
print(*(case["name"] + ":" + str(case["threads"]) for case in cases))
print(cases[2]["bytes_per_token"] - cases[0]["bytes_per_token"])'
# Prompts of more than 32 tokens both ways, where the machine has two.
for option in -q --exact-prompts; do
    upg bench micro.upg -n 0 -p 40 -r 5 -t 1 --json $option | python3 -c 'import json, sys
result = json.load(sys.stdin)
both = "avx512vnni" in result["device"] and sys.argv[1] == "-q"
print([case["name"] for case in result["cases"]] == ["pp40"] + ["pp40-exact"] * both)' $option
done
printf 'The quick brown fox. %.0s' {1..500} >text.txt
upg bench micro.upg --tokenizer text.txt -r 5 --json |
    json_keys tokenizer.median tokenizer.spread tokenizer.bytes tokenizer.tokens
upg bench micro.upg -n 8 -p 0 -r 5 --quiet | grep -cE "^(device|load|opened|limits|tg8 )"
upg bench --synthetic phi4-micro:2 -n 4 -p 4 -r 5 -t 2 --quiet | grep -oE "^(tg4|pp4) +2 "
try upg bench micro.upg -n 2000 --quiet
try upg bench micro.upg -d 1000 -p 30 --quiet
try upg bench --synthetic phi5
try upg bench --synthetic phi4 --max-memory 3G
try upg bench
try upg bench micro.upg --synthetic phi4
try upg bench micro.upg --depth 1,x
try upg bench micro.upg --sweep 0
try upg bench micro.upg --sweep 1 -t 1
# A timeline of two tokens: each op, and its sum by kinds.
upg bench micro.upg --trace trace.json -n 2 -t 1 --json | json_keys tokens us_per_token ops.0.op ops.0.share ops.0.gb_s
python3 -c 'import json
events = json.load(open("trace.json"))["traceEvents"]
tokens = [e for e in events if e["name"] == "token"]
ops = [e for e in events if e["tid"] == 2]
print(len(tokens), len(ops), ops[0]["name"], ops[-1]["name"], sorted({e["args"]["layer"] for e in ops}))
print(all(e["ph"] == "X" and e["dur"] >= 0 for e in events), ops[-1]["ts"] + ops[-1]["dur"] > ops[0]["ts"])'
upg bench micro.upg --trace trace.json -n 2 -t 1 | head -1
# Plain ops: 21 for a layer and 4 outside them where the fused program has 7 and 3.
upg bench micro.upg --trace trace.json -n 2 -t 1 --unfused --json | python3 -c 'import json, sys
result = json.load(sys.stdin)
print(result["ops_per_layer"], result["ops_outside"], sum(op["per_token"] for op in result["ops"]))'
try upg bench table --unfused
try upg bench micro.upg --trace missing/trace.json -n 2
try upg bench micro.upg --trace trace.json -n 0
