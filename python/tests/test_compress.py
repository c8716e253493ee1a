"""compress, plans and verify."""
import subprocess
import sys

import pytest
from conftest import CHECKPOINT, DATA

import upg


def test_compress_with_calibration(tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes((DATA.parent.parent / "data/calibration/default.txt").read_bytes()[:5000])
    seen = []
    output = tmp_path / "a.upg"
    result = upg.compress(CHECKPOINT, output, bits_per_parameter=3.5, calibration=text,
                          evaluation=text, evaluation_windows=2, progress=seen.append)
    assert result.file_bytes == output.stat().st_size
    assert 3.3 < 8 * result.weight_bytes / result.parameters <= 3.5
    assert result.ratio_fp32 == pytest.approx(4 * result.parameters / result.file_bytes)
    assert {"plan", "encode"} <= {p.stage for p in seen}
    assert all(p.done <= p.total for p in seen if p.total) and seen[-1].unit
    parts = [p for p in seen if p.stage == "encode" and p.part]
    assert all(1 <= p.part_index <= p.parts and p.part_done <= p.part_total for p in parts)
    assert {p.parts for p in parts if p.part == "layer"} == {4} and 0 < parts[-1].loss < .1
    with upg.Model.open(output) as model:
        assert model.info.file_bytes == result.file_bytes
        assert model.info.quality["evaluation"]["windows"] == 2
    with pytest.raises(FileExistsError):
        upg.compress(CHECKPOINT, output)


def test_same_input_same_bytes(compressed, tmp_path):
    upg.compress(CHECKPOINT, tmp_path / "b.upg", calibration="", threads=1)
    assert (tmp_path / "b.upg").read_bytes() == compressed.read_bytes()


def test_plan(tmp_path):
    with upg.Compression(CHECKPOINT, tmp_path / "a.upg", calibration="") as job:
        plan = job.plan
        assert plan["parameters"] == 7997696 and len(plan["matrices"]) == 30
        job.cancel()
        with pytest.raises(upg.CancelledError):
            job.run()
    with pytest.raises(upg.StateError):
        job.run()
    assert list(tmp_path.iterdir()) == []


def test_effort(tmp_path):
    predicted = []
    for effort in ("fast", "default", "high", "max"):
        with upg.Compression(CHECKPOINT, tmp_path / "a.upg", calibration="", effort=effort) as job:
            predicted.append(job.plan["predicted_kl"])
    assert predicted[0] == predicted[1] > predicted[2] > predicted[3]


def test_refused(tmp_path, compressed):
    output = tmp_path / "a.upg"
    with pytest.raises(upg.NotFoundError):
        upg.compress(tmp_path / "none", output)
    with pytest.raises(upg.NotFoundError):
        upg.compress(CHECKPOINT, output, calibration=tmp_path / "none.txt")
    with pytest.raises(upg.BudgetError):
        upg.compress(CHECKPOINT, output, bits_per_parameter=1.0, calibration="")
    for bad in ({"threads": -1}, {"seed": -1}, {"bits_per_parameter": "3"},
                {"effort": "slow"}):
        with pytest.raises(upg.ArgumentError):
            upg.compress(CHECKPOINT, output, **bad)
    assert not output.exists()


def test_verify(compressed, tmp_path):
    seen = []
    upg.verify(compressed, threads=2, progress=seen.append)
    assert seen[-1].stage == "verify" and seen[-1].done == seen[-1].total
    data = bytearray(compressed.read_bytes())
    at = (2 << 20) + 12345
    data[at] ^= 4
    bad = tmp_path / "bad.upg"
    bad.write_bytes(data)
    with pytest.raises(upg.CorruptError, match="weight") as e:
        upg.verify(bad)
    assert e.value.offset == 2 << 20
    with pytest.raises(upg.CorruptError):
        upg.Model.open(bad, verify="now")
    with pytest.raises(upg.NotFoundError):
        upg.verify(tmp_path / "none")


class Stop(Exception):
    """What a progress callback raises here."""


def stop_while_encoding(now):
    if now.stage == "encode":
        raise Stop


def test_journal_and_resume(compressed, tmp_path):
    output, journal = tmp_path / "a.upg", tmp_path / "a.upg.journal"
    with pytest.raises(Stop):
        upg.compress(CHECKPOINT, output, calibration="", journal=True,
                     progress=stop_while_encoding)
    assert not output.exists() and (journal / "head.json").exists()
    with pytest.raises(upg.ExistsError, match="resume"):
        upg.compress(CHECKPOINT, output, calibration="", journal=True)
    with pytest.raises(upg.UnsupportedError, match="seed"):
        upg.compress(CHECKPOINT, output, calibration="", resume=True, seed=3)
    upg.compress(CHECKPOINT, output, calibration="", resume=True)
    assert output.read_bytes() == compressed.read_bytes()
    assert list(tmp_path.iterdir()) == [output]


def test_no_journal(tmp_path):
    with pytest.raises(Stop):
        upg.compress(CHECKPOINT, tmp_path / "a.upg", calibration="", progress=stop_while_encoding)
    assert list(tmp_path.iterdir()) == []


def test_join(compressed, tmp_path):
    """Two workers at once: one file, the bytes of one that worked alone."""
    output, folder = tmp_path / "a.upg", tmp_path / "work"
    command = [sys.executable, "-c",
               "import sys, upg; print(upg.compress(*sys.argv[1:3], calibration='', threads=1,"
               "join=sys.argv[3]).file_bytes)", str(CHECKPOINT), str(output), str(folder)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sizes = [worker.communicate()[0].strip() for worker in workers]
    assert sizes == [str(output.stat().st_size)] * 2
    assert output.read_bytes() == compressed.read_bytes()
    with pytest.raises(upg.UnsupportedError, match="sequential"):
        upg.compress(CHECKPOINT, tmp_path / "b.upg", join=tmp_path / "other")


def test_estimate_counts_the_journal(tmp_path):
    bare = upg.estimate(CHECKPOINT, tmp_path / "a.upg", calibration="")
    kept = upg.estimate(CHECKPOINT, tmp_path / "a.upg", calibration="", journal=True)
    assert bare.journal_bytes == 0 and bare.disk_bytes == bare.file_bytes
    assert kept.journal_bytes > .9 * kept.weight_bytes
    assert kept.disk_bytes == kept.file_bytes + kept.journal_bytes
