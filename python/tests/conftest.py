"""What the tests share: the small model that is part of the project, and a .upg file made of it."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import upg

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CHECKPOINT = DATA / "phi4-micro"
TEXT = "It was a dark and stormy night; the rain fell in torrents"


@pytest.fixture(scope="session")
def compressed(tmp_path_factory):
    """phi4-micro, rounded to nearest: seconds."""
    path = tmp_path_factory.mktemp("model") / "micro.upg"
    upg.compress(CHECKPOINT, path, calibration="")
    return path


@pytest.fixture(scope="session")
def model(compressed):
    with upg.Model.open(compressed, device="cpu") as m:
        yield m


@pytest.fixture(scope="session")
def exact():
    """The unquantised checkpoint by the oracle backend."""
    with upg.Model.open(CHECKPOINT, device="ref") as m:
        yield m


@pytest.fixture(scope="session")
def oracle():
    """What transformers says about the checkpoint."""
    return json.loads((CHECKPOINT / "oracle.json").read_text())
