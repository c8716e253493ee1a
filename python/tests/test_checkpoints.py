"""Estimates, random checkpoints, exports and comparisons with the original."""
import dataclasses
import json

import numpy as np
import pytest
from conftest import CHECKPOINT

import upg
from upg import reference


def test_estimate(compressed, tmp_path):
    e = upg.estimate(CHECKPOINT, tmp_path / "a.upg", calibration="", threads=2)
    size = compressed.stat().st_size
    assert size <= e.file_bytes < size + 32768 and e.parameters == 7997696
    assert e.ratio_fp32 == pytest.approx(4 * e.parameters / e.file_bytes)
    assert e.ratio_source == pytest.approx(e.source_bytes / e.file_bytes)
    assert e.fits_disk and e.fits_memory and e.disk_bytes >= e.file_bytes and e.memory_bytes > 0
    assert e.seconds == pytest.approx(e.plan_seconds + e.text_seconds + e.code_seconds)
    assert e.code_rate > 0 and e.product_rate == 0 and e.measured_seconds > 0
    assert list(tmp_path.iterdir()) == []
    assert len(dataclasses.fields(e)) == 20
    with pytest.raises(upg.BudgetError):
        upg.estimate(CHECKPOINT, tmp_path / "a.upg", calibration="", bits_per_parameter=1)
    with pytest.raises(upg.ArgumentError):
        upg.estimate(CHECKPOINT, tmp_path / "a.upg", threads=-1)
    with pytest.raises(upg.NotFoundError):
        upg.estimate(tmp_path / "none", tmp_path / "a.upg")


def test_synthesize(tmp_path):
    seen = []
    upg.synthesize(tmp_path / "a", "phi4-micro", layers=1, tokenizer=CHECKPOINT, threads=1,
                   progress=seen.append)
    assert seen[-1].stage == "synth" and seen[-1].done == seen[-1].total
    upg.synthesize(tmp_path / "b", config=CHECKPOINT / "config.json", layers=1, threads=2)
    assert (tmp_path / "a/model.safetensors").read_bytes() == \
        (tmp_path / "b/model.safetensors").read_bytes()
    assert (tmp_path / "a/tokenizer.json").exists() and not (tmp_path / "b/tokenizer.json").exists()
    with upg.Model.open(tmp_path / "a", device="cpu") as model:
        assert model.info.layers == 1
    with pytest.raises(FileExistsError):
        upg.synthesize(tmp_path / "a", "phi4-micro")
    with pytest.raises(upg.ArgumentError, match="phi4-nano"):
        upg.synthesize(tmp_path / "c", "phi5")
    with pytest.raises(upg.ArgumentError):
        upg.synthesize(tmp_path / "c", "phi4-micro", layers=-1)

    def stop(_now):
        raise RuntimeError("enough")
    with pytest.raises(RuntimeError, match="enough"):
        upg.synthesize(tmp_path / "c", "phi4-micro", progress=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_export(compressed, tmp_path):
    """What comes out is what the NumPy reference decodes, in bf16, in the fused tensors' rows."""
    upg.export(compressed, tmp_path / "out")
    q = reference.read(compressed).matrix("model.layers.2.self_attn.q_proj.weight")
    data = (tmp_path / "out/model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:8 + size])["model.layers.2.self_attn.qkv_proj.weight"]
    begin, end = entry["data_offsets"]
    assert entry["dtype"] == "BF16" and entry["shape"] == [384, 256]
    bits = np.frombuffer(data[8 + size + begin:8 + size + end], "<u2").astype("<u4") << 16
    exported = bits.view("<f4").reshape(384, 256)[:256]
    assert np.abs(exported - q).max() <= np.abs(q).max() / 256
    with pytest.raises(FileExistsError):
        upg.export(compressed, tmp_path / "out")
    with pytest.raises(upg.NotFoundError):
        upg.export(tmp_path / "none", tmp_path / "other")


def test_verify_against(compressed, tmp_path):
    checks = upg.verify_against(compressed, CHECKPOINT)
    assert len(checks) == 39 and all(c.agrees for c in checks)
    coded = [c for c in checks if c.stored]
    assert len(coded) == 30
    assert all(c.measured == pytest.approx(c.stored, rel=1e-3) for c in coded)
    upg.synthesize(tmp_path / "other", "phi4-micro")
    assert not any(c.agrees for c in upg.verify_against(compressed, tmp_path / "other"))
    upg.synthesize(tmp_path / "short", "phi4-micro", layers=1)
    with pytest.raises(upg.DataError, match="layers"):
        upg.verify_against(compressed, tmp_path / "short")
