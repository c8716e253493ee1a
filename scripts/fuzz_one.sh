#!/bin/bash
# Runs one fuzz target from its corpus for a while; new inputs go to a temporary folder, a crashing
# one stays in the build folder.
#
# usage: fuzz_one.sh BUILD_FOLDER SECONDS TARGET
set -euo pipefail
build=$1 seconds=$2 target=$3
root=$(cd "$(dirname "$0")/.." && pwd)
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
corpus=$root/tests/fuzz/corpus/$target
program=$(find "$build" -name "$target" -type f -perm -u+x | head -n 1)
log=$build/$target.log

if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/$target-" "$found" $([ -d "$corpus" ] && echo "$corpus") \
    >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "fuzz: $target FAILED; the input is beside $log"
    exit 1
fi
echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs," \
    "$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1)"
