#!/usr/bin/env python3
"""Makes a checkpoint folder of a model's full shape whose weights are holes in sparse files: for
what reads headers alone (`upg plan`), without the disk that the weights would take.

usage: hollow_checkpoint.py UPG CONFIG.json INDEX.json FOLDER

UPG is the program, which writes the same shape with one layer; its tensors give the shapes of all
layers. INDEX.json says what lies in which shard."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def header_of(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size))


def shapes_of_one_layer(upg, config):
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one"
        subprocess.run([upg, "synth", one, "--config", config, "--layers", "1", "--quiet"],
                       check=True)
        header = header_of(one / "model.safetensors")
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}


def pattern(name):
    parts = name.split(".")
    return ".".join("0" if part.isdigit() else part for part in parts)


def main():
    upg, config, index, folder = sys.argv[1:]
    shapes = shapes_of_one_layer(upg, config)
    weight_map = json.loads(Path(index).read_text())["weight_map"]
    os.mkdir(folder)
    shutil.copy(config, Path(folder) / "config.json")
    shutil.copy(index, Path(folder) / "model.safetensors.index.json")
    for shard in sorted(set(weight_map.values())):
        header, offset = {}, 0
        for name in sorted(n for n, s in weight_map.items() if s == shard):
            shape = shapes[pattern(name)]
            size = 2
            for length in shape:
                size *= length
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(Path(folder) / shard, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + offset)


if __name__ == "__main__":
    main()
