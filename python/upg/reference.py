"""The .upg format in NumPy: docs/FORMAT.md as a program. It decodes every matrix to numbers, uses
nothing of libupg, and was written from that page alone; two tests compare it with the C decoder.

    file = reference.read("model.upg")
    w = file.matrix("model.layers.0.self_attn.q_proj.weight")    # f32 [rows][columns]

As a script:
    reference.py FILE                  checks the file and lists its matrices
    reference.py FILE MATRIX           writes the matrix, f64 [rows][columns], to stdout
    reference.py FILE MATRIX rotated   the same in the rotated basis
Exit code 77: NumPy is not installed."""
from __future__ import annotations

import json
import struct
import sys
from typing import Any

try:
    import numpy as np
except ImportError:
    sys.exit(77)
try:
    from xxhash import xxh3_128_digest
except ImportError:  # the hashes are not compared then
    xxh3_128_digest = None  # type: ignore[assignment]

MASK = (1 << 64) - 1
DTYPES = {"U8": "u1", "U32": "<u4", "F16": "<f2", "F32": "<f4", "BF16": "<u2"}
COLUMNS_AT_ONCE = 512  # of a matrix while it is decoded: bounds the memory


def split_mix(seed: int, i: int) -> int:
    """R(seed, i) of "Rotation": 64 bits."""
    z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


def signs(seed: int, n: int) -> np.ndarray:
    """d of "Rotation": f32 [n] of -1 and 1."""
    words = np.array([split_mix(seed, i) for i in range(-(-n // 64))], dtype=np.uint64)
    bits = words[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    return 1 - 2 * bits.reshape(-1)[:n].astype(np.float32)


def hadamard(n: int) -> np.ndarray:
    """H / sqrt(n): f32 [n][n], symmetric."""
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return (h / np.sqrt(n)).astype(np.float32)


def check_hashes(raw: np.ndarray, covered: int) -> None:
    """Compares all hashes of the file; raises ValueError at the first that differs."""
    chunks = -(-covered // 2**20)
    begin = b"UPGHASH1" + struct.pack("<Q", covered)
    end = raw[-32:].tobytes()
    if len(raw) != covered + 16 * chunks + 32 or end[:16] != begin:
        raise ValueError("the hash table does not end the file: is it truncated?")
    if xxh3_128_digest is None:
        return
    table = raw[covered:-16].tobytes()
    for i in range(chunks):
        chunk = raw[i << 20:min(covered, (i + 1) << 20)]
        if xxh3_128_digest(chunk.tobytes()) != table[16 * i:16 * i + 16]:
            raise ValueError(f"chunk {i}, from byte {i << 20}, does not match its hash")
    if xxh3_128_digest(table) != end[16:]:
        raise ValueError("the hash table does not match its own hash")


def band_bits(words: np.ndarray, n_binary: int, n_cols: int, first: int, last: int) -> np.ndarray:
    """Binary rows of a band in columns [first, last): i8 [n_binary][last - first] of -1 and 1.
    `words` begins where the band does; `first` is a multiple of 32."""
    groups, out = -(-n_cols // 32), []
    for block in range(0, n_binary, 64):
        rows = min(64, -(-(n_binary - block) // 16) * 16)
        used = words[block * groups:][:rows * groups].reshape(groups, rows)
        used = used[first // 32:-(-last // 32)]
        bits = used.T[:, :, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
        out.append(bits.astype(np.int8).reshape(rows, -1))
    return 2 * np.concatenate(out)[:n_binary, :last - first] - 1


def newest(code: dict[str, Any], n_rows: int) -> np.ndarray:
    """newest(r) of "The code": i64 [n_rows]."""
    new = np.where(np.arange(n_rows) % 2 == 0, code["k0"], code["k1"])
    return code["length"] - code["k0"] + np.cumsum(new) - 1


def decode(bands: list[list[int]], codes: list[dict[str, Any]], words: np.ndarray,
           scales: np.ndarray, n_cols: int, dtype: Any = np.float32) -> np.ndarray:
    """A matrix in the rotated basis: [rows][columns]."""
    out = np.empty((len(scales), n_cols), dtype)
    at = row = 0
    for row0, n_rows, number in bands:
        code = codes[number]
        index = newest(code, n_rows)
        n_binary = int(index[-1]) + 1
        factor = scales[row0:row0 + n_rows].astype(dtype) * dtype(np.float32(code["gain"]))
        for first in range(0, n_cols, COLUMNS_AT_ONCE):
            last = min(n_cols, first + COLUMNS_AT_ONCE)
            bits = band_bits(words[at:], n_binary, n_cols, first, last)
            v = np.zeros((n_rows, last - first), np.int32)
            for i, tap in enumerate(code["taps"]):
                v += np.int32(tap) * bits[index - i]
            out[row0:row0 + n_rows, first:last] = factor[:, None] * v
        if row0 != row:
            raise ValueError(f"a band begins at row {row0} instead of {row}")
        at += -(-n_cols // 32) * -(-n_binary // 16) * 16
        row += n_rows
    if at != len(words) or row != len(scales):
        raise ValueError(f"bands take {at} words and {row} rows of {len(words)} and {len(scales)}")
    return out


def outliers(counts: dict[str, int], data: np.ndarray, shape: list[int]) -> np.ndarray:
    """What "Outliers" adds to a matrix: f64 [rows][columns]."""
    n_rows, n_cols = shape
    d, n, raw = counts["columns"], counts["sparse"], data.tobytes()
    if len(raw) != 4 * d + 2 * (d + (n > 0)) + d * n_rows + n + counts["gap_bytes"]:
        raise ValueError("the outliers' tensor is not of the size that the manifest says")
    out = np.zeros((n_rows, n_cols))
    scales = np.frombuffer(raw, "<f2", d + (n > 0), 4 * d).astype(float)
    at = 4 * d + scales.nbytes // 4
    dense = np.frombuffer(raw, "i1", d * n_rows, at).reshape(d, n_rows)
    out[:, np.frombuffer(raw, "<u4", d)] = (scales[:d, None] * dense).T
    at += d * n_rows
    values, place, gap, shift, k = np.frombuffer(raw, "i1", n, at), 0, 0, 0, 0
    for byte in raw[at + n:]:
        gap |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            place += gap
            out[place // n_cols, place % n_cols] += scales[d] * values[k]
            place, gap, shift, k = place + 1, 0, 0, k + 1
    if k != n:
        raise ValueError(f"{k} places for {n} outliers")
    return out


class File:
    """tensors   every tensor by its name, read-only views of the file (BF16 as u2)
    manifest  the manifest, parsed"""

    def __init__(self, raw: np.ndarray, check: bool) -> None:
        begin = 8 + struct.unpack("<Q", raw[:8].tobytes())[0]
        header = json.loads(raw[8:begin].tobytes())
        if raw[8] != ord("{") or begin % 4096 or header.pop("__metadata__") != {"format": "upg"}:
            raise ValueError("not a .upg file")
        self.tensors: dict[str, np.ndarray] = {}
        at = 0
        for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, end = t["data_offsets"]
            if first != at or (first % 64 and not name.startswith("pad.")):
                raise ValueError(f"{name} begins at byte {first}")
            data = raw[begin + first:begin + end].view(DTYPES[t["dtype"]])
            self.tensors[name] = data.reshape(t["shape"])
            at = end
        if at != len(raw) - begin:
            raise ValueError(f"tensors end at byte {at}, the data section at {len(raw) - begin}")
        if check:
            check_hashes(raw, begin + header["upg.hashes"]["data_offsets"][0])
        self.manifest: dict[str, Any] = json.loads(self.part("manifest"))
        version, features = self.manifest["version"], self.manifest["features"]
        if version.split(".")[0] != "1" or set(features) - {"outliers"}:
            raise ValueError(f"version {version} with features {features}, this reader knows 1.x")

    def part(self, name: str) -> bytes:
        """Part "upg." + name: "config", "tokenizer", ... KeyError when the file has none."""
        return self.tensors["upg." + name].tobytes()

    def dense(self, name: str) -> np.ndarray:
        """A tensor that is not coded (a norm), as f32."""
        t = self.tensors[name]
        return (t.astype(np.uint32) << 16).view(np.float32) if t.dtype == "<u2" else t.astype("f4")

    def entry(self, name: str) -> dict[str, Any]:
        """A coded matrix's entry in the manifest. KeyError when there is no such matrix."""
        return {m["name"]: m for m in self.manifest["matrices"]}[name]

    def matrix(self, name: str, rotated: bool = False, dtype: Any = np.float32) -> np.ndarray:
        """A coded matrix: [rows][columns]; `rotated`: W' of "Rotation" alone, without outliers."""
        m = self.entry(name)
        words, scales = self.tensors[name + ".code"], self.tensors[name + ".scale"]
        w = decode(m["bands"], self.manifest["codes"], words, scales, m["shape"][1], dtype)
        if rotated:
            return w
        blocks = w.reshape(-1, m["block"]) @ hadamard(m["block"]).astype(dtype)
        w = blocks.reshape(w.shape) * signs(int(m["seed"], 16), w.shape[1])
        extra = self.outliers(name)
        return w if extra is None else w + extra.astype(dtype)

    def outliers(self, name: str) -> np.ndarray | None:
        """What "Outliers" adds to a matrix, f64 [rows][columns] in the original basis; or None."""
        m = self.entry(name)
        if "outliers" not in m:
            return None
        return outliers(m["outliers"], self.tensors[name + ".outliers"], m["shape"])


def read(path: str, check: bool = True) -> File:
    """Maps the file; `check`: compares its hashes too. ValueError says what is malformed."""
    return File(np.memmap(path, np.uint8, "r"), check)


def main() -> None:
    file = read(sys.argv[1])
    for m in file.manifest["matrices"]:
        if len(sys.argv) == 2:
            w = file.matrix(m["name"])
            print(m["name"], w.shape, "rms", np.sqrt(np.mean(w * w)), m["relative_error"])
        elif m["name"] == sys.argv[2]:
            w = file.matrix(m["name"], len(sys.argv) > 3, np.float64)
            sys.stdout.buffer.write(w.astype("<f8").tobytes())


if __name__ == "__main__":
    main()
