#!/usr/bin/env python3
"""Writes docs/OPS.md from src/program/ops.def.

    scripts/make_ops_doc.py            writes the page
    scripts/make_ops_doc.py --check    exits 1 when the page is not what would be written
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "src/program/ops.def"
PAGE = ROOT / "docs/OPS.md"

LETTERS = {
    "a": "activation",
    "p": "prepared",
    "w": "matrix",
    "v": "vector",
    "k": "KV cache",
    "K": "keys",
    "V": "values",
    "t": "token",
    "l": "logits",
}

HEAD = """\
# Ops

A model runs as a flat array of these ops (src/program/program.h): EMBED, then for every layer
NORM_PREPARE, QKV_ROPE, ATTENTION, GEMV_ADD, NORM_PREPARE, GATE_UP, GEMV_ADD, then NORM_PREPARE and
LOGITS. `upg inspect --program` prints a model's. With `--unfused` the same model becomes plain ops,
EMBED, the ones below LOGITS and LOGITS: 21 for a layer, for the same numbers, to be measured and to
be compared with; the CPU backends run both forms, CUDA the fused one. This page is made from
src/program/ops.def by scripts/make_ops_doc.py.

| op | outputs | inputs | meaning |
|---|---|---|---|
"""

TAIL = """
Operands, each with the letter it has in ops.def:

| letter | operand |
|---|---|
| a | activation: an f32 vector in a scratch slot, one for each row of a batch |
| p | prepared input of a matrix product, in a scratch slot: the f32 vector itself for dense \
matrices; for coded ones rotated and quantised to int8 with one scale for each row |
| w | matrix, dense or coded |
| v | f32 vector: the weights of a norm |
| k | KV cache of the op's layer |
| K, V | keys and values of that cache alone |
| t | the row's token |
| l | the row's logits |

Of two inputs in scratch slots the first, an activation, is the output's slot, updated in place.
"""


def spell(letters):
    words = []
    for letter in letters:
        name = LETTERS[letter]
        if words and words[-1][0] == name:
            words[-1][1] += 1
        else:
            words.append([name, 1])
    plural = {"matrix": "matrices", "activation": "activations"}
    return ", ".join(n if c == 1 else f"{c} {plural.get(n, n + 's')}" for n, c in words)


def page():
    text = re.sub(r"/\*.*?\*/", "", TABLE.read_text(encoding="utf-8"), flags=re.S)
    rows = []
    pattern = r'UPG_OP\(\s*(\w+)\s*,\s*"([^"]*)"\s*,\s*((?:"[^"]*"\s*)+)\)'
    for name, operands, meaning in re.findall(pattern, text):
        outputs, inputs = operands.split("<")
        meaning = "".join(re.findall(r'"([^"]*)"', meaning))
        rows.append(f"| {name} | {spell(outputs)} | {spell(inputs)} | {meaning} |\n")
    if len(rows) != text.count("UPG_OP("):
        sys.exit(f"{TABLE}: {text.count('UPG_OP(')} ops, {len(rows)} understood")
    return HEAD + "".join(rows) + TAIL


def main():
    if sys.argv[1:] == ["--check"]:
        have = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if have != page():
            sys.exit(f"{PAGE} is out of date: run scripts/make_ops_doc.py")
    elif not sys.argv[1:]:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
