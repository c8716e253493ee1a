"""A second reader of .upg files, written from docs/FORMAT.md alone, to keep that page exact.

read_upg.py FILE                  checks the file and lists its matrices
read_upg.py FILE MATRIX           writes the matrix, f64 [rows][columns] little-endian, to stdout
read_upg.py FILE MATRIX rotated   the same in the rotated basis
Exit code 77: NumPy is not installed."""
import json
import struct
import sys

try:
    import numpy as np
except ImportError:
    sys.exit(77)
try:
    import xxhash
except ImportError:
    xxhash = None

MASK = (1 << 64) - 1
DTYPES = {"U8": "u1", "U32": "<u4", "F16": "<f2", "F32": "<f4", "BF16": "<u2"}


def split_mix(seed, i):
    z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


def read_file(path):
    """The tensors by name, after the checks of "Layout" and "Hashes"."""
    raw = open(path, "rb").read()
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:begin])
    assert raw[8:9] == b"{" and begin % 4096 == 0
    assert header.pop("__metadata__") == {"format": "upg"}
    tensors, at = {}, 0
    for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, end = t["data_offsets"]
        assert first == at and (first % 64 == 0 or name.startswith("pad.")), name
        tensors[name] = np.frombuffer(raw[begin + first:begin + end], DTYPES[t["dtype"]])
        tensors[name] = tensors[name].reshape(t["shape"])
        at = end
    assert at == len(raw) - begin
    check_hashes(raw, begin + header["upg.hashes"]["data_offsets"][0])
    return tensors


def check_hashes(raw, covered):
    chunks = -(-covered // 2**20)
    assert len(raw) == covered + 16 * chunks + 32
    assert raw[-32:-24] == b"UPGHASH1" and struct.unpack("<Q", raw[-24:-16])[0] == covered
    if xxhash is None:
        return
    for i in range(chunks):
        chunk = raw[i << 20:min(covered, (i + 1) << 20)]
        assert xxhash.xxh3_128(chunk).digest() == raw[covered + 16 * i:covered + 16 * i + 16], i
    assert xxhash.xxh3_128(raw[covered:-16]).digest() == raw[-16:]


def band_bits(words, n_binary, n_cols):
    """Binary rows of a band, int64 [n_binary][n_cols] of 0 and 1, and the words used."""
    groups, out, at = -(-n_cols // 32), [], 0
    for first in range(0, n_binary, 64):
        rows = min(64, -(-(n_binary - first) // 16) * 16)
        block = words[at:at + groups * rows].reshape(groups, rows)
        at += groups * rows
        bits = block.T[:, :, None] >> np.arange(32, dtype=np.uint32) & 1
        out.append(bits.reshape(rows, 32 * groups))
    return np.concatenate(out)[:n_binary, :n_cols].astype(np.int64), at


def read_matrix(tensors, manifest, m, rotated):
    """f64 [rows][columns]."""
    n_rows, n_cols = m["shape"]
    words, scales = tensors[m["name"] + ".code"], tensors[m["name"] + ".scale"]
    out, at, row = np.zeros((n_rows, n_cols)), 0, 0
    for row0, rows, number in m["bands"]:
        code = manifest["codes"][number]
        k, length, taps = (code["k0"], code["k1"]), code["length"], code["taps"]
        n_binary = length - k[0] + sum(k[r % 2] for r in range(rows))
        bits, used = band_bits(words[at:], n_binary, n_cols)
        newest = length - k[0] - 1
        for r in range(rows):
            newest += k[r % 2]
            value = sum(taps[i] * (2 * bits[newest - i] - 1) for i in range(length))
            out[row0 + r] = float(scales[row0 + r]) * float(np.float32(code["gain"])) * value
        assert row0 == row
        at, row = at + used, row + rows
    assert at == len(words) and row == n_rows == len(scales)
    return out if rotated else undo_rotation(out, m)


def undo_rotation(w, m):
    n_cols, block, seed = m["shape"][1], m["block"], int(m["seed"], 16)
    h = np.ones((1, 1))
    while len(h) < block:
        h = np.block([[h, h], [h, -h]])
    blocks = w.reshape(len(w), n_cols // block, block) @ h / np.sqrt(block)
    signs = [-1.0 if split_mix(seed, j // 64) >> j % 64 & 1 else 1.0 for j in range(n_cols)]
    return blocks.reshape(w.shape) * np.array(signs)


def main():
    tensors = read_file(sys.argv[1])
    manifest = json.loads(tensors["upg.manifest"].tobytes())
    assert manifest["format"] == "upg" and manifest["version"].split(".")[0] == "1"
    assert manifest["features"] == []
    for m in manifest["matrices"]:
        if len(sys.argv) == 2:
            w = read_matrix(tensors, manifest, m, False)
            print(m["name"], w.shape, "rms", np.sqrt(np.mean(w * w)), m["relative_error"])
        elif m["name"] == sys.argv[2]:
            w = read_matrix(tensors, manifest, m, len(sys.argv) > 3)
            sys.stdout.buffer.write(w.astype("<f8").tobytes())


main()
