#!/bin/bash
# Compresses a model at several sizes, measures each against the original, and writes one JSON object
# per line to docs/results/quality-NAME.jsonl: the source of the curves in docs/QUALITY.md. Minutes
# to an hour; not part of the tests.
#
# usage: quality_campaign.sh UPG MODEL_FOLDER NAME BPW...     UPG: the program
#   UPG_COMPRESS_OPTIONS   more options for `upg compress`
#   UPG_TAG                kept in the lines, "default" otherwise
set -euo pipefail
cd "$(dirname "$0")/.."

upg=$1 model=$2 name=$3
shift 3
out=docs/results/quality-$name.jsonl
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p docs/results

for bpw in "$@"; do
    # shellcheck disable=SC2086
    made=$("$upg" compress "$model" -o "$folder/m.upg" --force --bpw "$bpw" --json \
        ${UPG_COMPRESS_OPTIONS:-} 2>"$folder/log" | tail -n 1) || { cat "$folder/log"; exit 1; }
    measured=$("$upg" eval "$folder/m.upg" --ids "$model/valid_ids.npy" --against "$model" --json \
        2>"$folder/log") || { cat "$folder/log"; exit 1; }
    python3 - "$name" "$bpw" "${UPG_TAG:-default}" "$made" "$measured" <<'PY' | tee -a "$out"
import json, sys
name, bpw, tag, made, measured = sys.argv[1:]
made, measured = json.loads(made), json.loads(measured)
keys = ("perplexity", "ppl_ratio", "kl_mean", "kl_p99", "top1_agreement", "tokens")
line = {"model": name, "tag": tag, "asked_bpw": float(bpw)}
line["bpw"] = round(made["weight_bits_per_parameter"], 4)
line["file_bytes"] = made["file_bytes"]
line["compress_seconds"] = round(made["seconds"], 1)
line.update({k: round(measured[k], 6) for k in keys})
print(json.dumps(line))
PY
done
