"""The format in NumPy against the C decoder, and the NumPy layer against the engine."""
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import CHECKPOINT, TEXT

import upg
from upg import baseline, reference


@pytest.fixture(scope="module")
def file(compressed):
    return reference.read(compressed)


def checkpoint_tensors():
    """f32 by name, fused matrices split as the .upg file has them."""
    raw = (CHECKPOINT / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    header.pop("__metadata__")
    out = {}
    for name, t in header.items():
        first, end = t["data_offsets"]
        bits = np.frombuffer(raw[begin + first:begin + end], "<u2").astype(np.uint32) << 16
        w = bits.view(np.float32).reshape(t["shape"])
        parts = {"qkv_proj": (("q_proj", 256), ("k_proj", 64), ("v_proj", 64)),
                 "gate_up_proj": (("gate_proj", 1024), ("up_proj", 1024))}
        fused = name.split(".")[-2]
        if fused not in parts:
            out[name] = w
            continue
        row = 0
        for part, rows in parts[fused]:
            out[name.replace(fused, part)] = w[row:row + rows]
            row += rows
    return out


def test_errors_are_those_that_c_measured(file, model):
    """|W - W'|^2 / |W|^2 of every matrix, as the encoder found it."""
    source = checkpoint_tensors()
    checked = 0
    for tensor in model.tensors():
        if tensor.name in file.tensors:  # a norm
            np.testing.assert_array_equal(file.dense(tensor.name), source[tensor.name])
            continue
        w, got = source[tensor.name], file.matrix(tensor.name)
        assert got.shape == tensor.shape and got.dtype == np.float32
        error = float(((w - got) ** 2).sum() / (w ** 2).sum())
        assert error == pytest.approx(tensor.relative_error, rel=1e-3), tensor.name
        checked += 1
    assert checked == 30


def test_a_forward_pass_equals_the_engine(file, compressed):
    """Every matrix, bit and sign takes part in the logits."""
    with upg.Model.open(compressed, device="ref") as model:
        tokens = model.tokenize(TEXT)
        want = model.logits(tokens)
    got = baseline.logits(file, tokens)
    assert np.abs(want - got).max() < 1e-5 * np.abs(want).max()


def test_outliers(tmp_path):
    """A checkpoint with columns and weights that stick out: they come beside the code, and the
    NumPy pass still equals the engine."""
    for path in CHECKPOINT.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = bytearray((tmp_path / "model.safetensors").read_bytes())
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    for name, tensor in header.items():
        if not name.endswith("_proj.weight"):
            continue
        first, end = tensor["data_offsets"]
        w = np.frombuffer(raw, "<u2", (end - first) // 2, begin + first).reshape(tensor["shape"])
        w[:, 77] += 4 << 7  # bf16: 16 times as large
        w[::8, 5] += 5 << 7
    (tmp_path / "model.safetensors").write_bytes(raw)
    output = tmp_path / "out.upg"
    upg.compress(tmp_path, output, calibration="")
    file = reference.read(output)
    assert file.manifest["features"] == ["outliers"]
    with upg.Model.open(output, device="ref") as model:
        found = {t.name: t for t in model.tensors() if t.outliers or t.outlier_columns}
        assert "model.layers.1.mlp.down_proj.weight" in found
        tokens = model.tokenize(TEXT)
        want, got = model.logits(tokens), baseline.logits(file, tokens)
    assert np.abs(want - got).max() < 1e-5 * np.abs(want).max()
    upg.compress(tmp_path, output, calibration="", outliers=False, overwrite=True)
    assert reference.read(output).manifest["features"] == []


def test_layer_by_layer_with_a_cache(file):
    """Position by position equals all at once."""
    shape = baseline.Shape.of(json.loads(file.part("config")))
    source = baseline.Kept(baseline.Decoding(file, "model.layers.1."))
    x = np.random.default_rng(3).standard_normal((6, shape.hidden), np.float32)
    whole = baseline.layer(x, source, baseline.Cache(shape), shape)
    cache = baseline.Cache(shape)
    steps = [baseline.layer(row[None], source, cache, shape) for row in x]
    assert np.abs(np.concatenate(steps) - whole).max() < 1e-4 * np.abs(whole).max()


def test_the_worked_example_of_the_page():
    """docs/FORMAT.md, "Example"."""
    words = np.array([2, 2, 3, 1, 2, 0, 1, 2, 3, 1, 1, 2, 2, 1, 0, 0], np.uint32)
    code = {"k0": 2, "k1": 2, "length": 12, "gain": 0.0037,
            "taps": [107, 127, 89, -47, -67, -71, 23, -11, -61, -79, 127, -107]}
    w = reference.decode([[0, 2, 0]], [code], words, np.array([1, 0.5], np.float16), 2)
    np.testing.assert_allclose(w, np.array([[-114, -184], [-84, -33]]) * 0.0037, rtol=1e-6)
    assert reference.split_mix(7, 0) == 0x63CBE1E459320DD7
    row = (w[:1] @ reference.hadamard(2)) * reference.signs(7, 2)
    np.testing.assert_allclose(row, [[0.7797, -0.1831]], atol=1e-4)


def test_damage_is_found(compressed, tmp_path):
    data = compressed.read_bytes()
    for name, damaged in {
        "flipped": data[:1 << 20] + bytes([data[1 << 20] ^ 1]) + data[(1 << 20) + 1:],
        "hash": data[:-1] + bytes([data[-1] ^ 1]),
        "cut": data[:-16],
        "grown": data + b"0" * 16,
        "magic": data[:8] + b"[" + data[9:],
    }.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            reference.read(path)


def test_measuring(compressed):
    out = subprocess.check_output(
        [sys.executable, "-m", "upg.baseline", compressed, "--repeat", "1", "--json"], text=True)
    result = json.loads(out)
    assert result["parameters"] == 256 * 256 * 2 + 2 * 64 * 256 + 3 * 1024 * 256
    assert result["python_s"] > result["matmul_s"] > 0 and result["decode_s"] > 0
    assert sum(r * c for r, c, _ in baseline.Random.sizes.values()) == 340787200
