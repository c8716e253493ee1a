#!/usr/bin/env python3
"""Writes src/tokenizer/char_class_tables.c from ranges of code points.

usage: make_char_classes.py unicode_classes.json > src/tokenizer/char_class_tables.c

The JSON holds inclusive ranges for "letter_p{L}", "number_p{N}" and "space_s". Two bits per code
point, in blocks of 128; equal blocks are stored once.
"""
import json
import sys

BLOCK = 128
OTHER, LETTER, NUMBER, SPACE = range(4)


def main():
    data = json.load(open(sys.argv[1], encoding="utf-8"))
    classes = bytearray(0x110000)
    for key, value in (("letter_p{L}", LETTER), ("number_p{N}", NUMBER), ("space_s", SPACE)):
        for first, last in data[key]:
            classes[first:last + 1] = bytes([value]) * (last + 1 - first)
    end = max(i for i, c in enumerate(classes) if c) + 1
    end = (end + BLOCK - 1) // BLOCK * BLOCK

    blocks, index = {}, []
    for start in range(0, end, BLOCK):
        packed = bytes(sum(classes[start + i + k] << 2 * k for k in range(4))
                       for i in range(0, BLOCK, 4))
        index.append(blocks.setdefault(packed, len(blocks)))
    assert len(blocks) <= 256

    print("/* char_class_tables.c: made by scripts/make_char_classes.py, not by hand.\n"
          " *\n"
          " * General categories L and N and the property White_Space of Unicode 16.0, two bits per"
          " code\n * point: 0 other, 1 letter, 2 number, 3 space. Everything from"
          f" U+{end:04X} on is 0. */")
    print('#include "tokenizer/char_class.h"\n')
    print("/* clang-format off */")
    print(f'_Static_assert(UPG_CHAR_CLASS_END == 0x{end:X}, "as in char_class.h");\n')
    rows("upg_char_class_index[UPG_CHAR_CLASS_END / 128]", index)
    rows("upg_char_class_blocks[][32]", blocks)
    print("/* clang-format on */")


def rows(name, values):
    print(f"const uint8_t {name} = {{")
    if isinstance(values, dict):
        for packed in values:
            print("    { " + ", ".join(str(b) for b in packed[:11]) + ",")
            print("      " + ", ".join(str(b) for b in packed[11:22]) + ",")
            print("      " + ", ".join(str(b) for b in packed[22:]) + " },")
    else:
        for i in range(0, len(values), 20):
            print("    " + ", ".join(str(v) for v in values[i:i + 20]) + ",")
    print("};\n" if "index" in name else "};")


if __name__ == "__main__":
    main()
