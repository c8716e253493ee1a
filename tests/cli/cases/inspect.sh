# Every tensor with shape, rate, bytes and error; totals that fit each other.
upg inspect micro.upg --json >result || exit
json_keys architecture parameters file_bytes weight_bytes bits_per_parameter bits_per_weight ratio_fp32 \
    ratio_source tensors.0.name tensors.0.shape tensors.0.rate tensors.0.bytes tensors.0.error <result
python3 - <<'END'
import json, os
result = json.load(open("result"))
assert result["file_bytes"] == os.path.getsize("micro.upg")
assert sum(t["bytes"] for t in result["tensors"]) <= result["weight_bytes"]
assert abs(result["bits_per_weight"] - 8 * result["weight_bytes"] / result["parameters"]) < 1e-9
assert result["bits_per_weight"] <= 3.2
coded = [t for t in result["tensors"] if len(t["shape"]) == 2]
assert all(0 < t["error"] < .2 and t["rate"] < 6 for t in coded) and len(coded) > 20
END
upg inspect micro.upg | sed -n '1p;/^parameters/p' | tr -s ' '
upg inspect data/phi4-micro | sed -n 2p
upg inspect micro.upg --program | grep -c . >lines
[ "$(cat lines)" -gt 20 ] && echo "program: printed"
# The plain form: more ops, each of one kind, among them none that is fused.
upg inspect micro.upg --program --unfused >plain || exit
[ "$(grep -c . plain)" -gt "$(cat lines)" ] && echo "program: more ops when plain"
grep -oE "^[0-9]+ +[A-Z_]+ +layer [01] " plain | awk '{ print $2 }' | head -23 | paste -sd' '
try upg inspect micro.upg --unfused
