# The fixed form of `compress --json`: the last line of stdout holds the keys; nothing but the output
# is left behind.
upg compress data/phi4-micro -o out.upg --json --no-calibration --quiet >result || exit
json_keys --last file_bytes parameters bits_per_parameter weight_bytes ratio_fp32 ratio_source \
    seconds <result
python3 - result <<'END'
import json, os, sys
result = json.loads(open(sys.argv[1]).read().splitlines()[-1])
assert result["file_bytes"] == os.path.getsize("out.upg")
assert 8 * result["weight_bytes"] / result["parameters"] <= 3.2
assert abs(result["bits_per_parameter"] - 8 * result["file_bytes"] / result["parameters"]) < 1e-4
assert abs(result["ratio_fp32"] - 4 * result["parameters"] / result["file_bytes"]) < 1e-4
END
ls -A
