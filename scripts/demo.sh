#!/bin/bash
# From a fresh clone to a compressed model that writes: installs what is missing, builds, compresses
# the demo model that is part of the project (8 M parameters, trained on public-domain books),
# verifies the file and lets it write. About a minute on two cores, packages aside.
#
# usage: demo.sh [FOLDER]      FOLDER for the .upg file; default: build/demo
set -euo pipefail
cd "$(dirname "$0")/.."

model=tests/data/phi4-micro
folder=${1:-build/demo}
file=$folder/phi4-micro.upg
upg=build/demo/bin/upg

step() {
    printf '\n== %s\n' "$*"
}
show() {
    local word line='$ upg'
    for word in "$@"; do
        [[ $word == *[\ \?]* ]] && word="\"$word\""
        line="$line $word"
    done
    printf '%s\n' "$line"
    "$upg" "$@"
}

step "Packages"
scripts/setup.sh

step "Build"
cmake -S . -B build/demo -G Ninja -DCMAKE_BUILD_TYPE=Release -DUPG_BUILD_TESTS=OFF >/dev/null
cmake --build build/demo --target upg_cli | tail -n 1
mkdir -p "$folder"

step "Compress: bf16 checkpoint to one file of 3.2 bits per weight"
show compress "$model" -o "$file" --force --no-journal

step "What is in the file: every tensor's rate and error, sizes and ratios"
show inspect "$file"

step "Verify: every chunk against its checksum"
show verify "$file"

step "Quality: perplexity beside the unquantised checkpoint's, and the distance from it"
show eval "$file" --ids "$model/valid_ids.npy" --windows 20 --against "$model"

step "Write: a passage"
show run "$file" -p "It was a dark and stormy night, and the old house" -n 120 --temp 0.7 --top-p 0.9 --seed 2
echo

step "Chat: one question"
show chat "$file" -m "Who are you?" -n 80
