# The fixed form of `eval --json`, and figures that the oracle has for these windows.
upg eval data/phi4-micro --ids data/phi4-micro/valid_ids.npy --windows 4 --json --quiet >result || exit
json_keys perplexity nll tokens top1 <result
python3 - <<'END'
import json, math
result = json.load(open("result"))
oracle = json.load(open("data/phi4-micro/oracle.json"))["valid"]
nll = sum(oracle["window_nll"][:4]) / (4 * 511)
assert abs(result["nll"] - nll) < 2e-4, (result["nll"], nll)
assert result["tokens"] == 4 * 511
assert abs(math.exp(result["nll"]) - result["perplexity"]) < 1e-6 * result["perplexity"]
print("as the oracle")
END
