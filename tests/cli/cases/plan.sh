# What a compression would take: computed sizes that its file keeps, a labelled estimate of the time,
# exit codes when there is no room; nothing is written.
upg plan data/phi4-micro --no-calibration -q >plan || exit
sed 's/[0-9][0-9.]*/N/g; s/N [kMGT]\?B/N B/g; s/N minutes/N s/g' plan
upg plan data/phi4-micro --no-calibration -q --json >plan.json || exit
json_keys sizes.parameters sizes.source_bytes sizes.weight_bytes sizes.file_bytes sizes.ratio_fp32 \
    sizes.ratio_source sizes.memory_bytes sizes.disk_bytes sizes.journal_bytes time.seconds time.plan_seconds \
    time.text_seconds time.code_seconds time.measured_weights_per_second \
    time.measured_flops_per_second time.measured_for_seconds memory_available disk_available \
    fits_memory fits_disk <plan.json
ls
upg compress data/phi4-micro --no-calibration -q -o out.upg >/dev/null || exit
python3 - <<'END'
import json, os
sizes = json.load(open("plan.json"))["sizes"]
assert os.path.getsize("out.upg") <= sizes["file_bytes"] < os.path.getsize("out.upg") + 32768
END
try upg plan data/phi4-micro --no-calibration -q -o out.upg
try upg plan data/phi4-micro --no-calibration -q --bpw 1
try upg plan data/phi4-micro --no-calibration -q --max-memory 1M 2>/dev/null
try upg plan data/phi4-micro --plan-only
try upg plan data/phi4-micro --eval data/phi4-micro/config.json
try upg plan none -q
