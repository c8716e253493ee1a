# With --against: the keys, sane figures, and no distance of a model from itself.
upg eval micro.upg --ids data/phi4-micro/valid_ids.npy --windows 3 --against data/phi4-micro --json --quiet \
    >result || exit
json_keys perplexity nll tokens top1 kl_mean kl_p99 top1_agreement ppl_ratio <result
upg eval micro.upg --ids data/phi4-micro/valid_ids.npy --windows 2 --against micro.upg --json --quiet >same || exit
python3 - <<'END'
import json
result, same = json.load(open("result")), json.load(open("same"))
assert 0 < result["kl_mean"] < .5 and result["kl_mean"] < result["kl_p99"], result
assert .5 < result["top1_agreement"] < 1 and .9 < result["ppl_ratio"] < 1.5, result
assert same["kl_mean"] == 0 and same["top1_agreement"] == 1 and same["ppl_ratio"] == 1, same
END
