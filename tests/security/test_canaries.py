"""No canary fires, and every refusal says what, where and what to do. Run: pytest tests/security"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from baits import Canary, Trip, pickled
from corpus import CORPUS

from harness.errors import AssayError


@pytest.mark.parametrize("canary", CORPUS, ids=lambda canary: canary.name)
def test_no_canary_fires(canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wire = tmp_path / "wire"
    call = canary.bait(tmp_path, wire)
    if canary.refused:
        with pytest.raises(AssayError) as caught:
            call()
        error = caught.value
        assert re.search(canary.refused, str(error)), str(error)
        assert error.what and error.do, str(error)
        assert error.where or "unknown task" in error.what, str(error)
        assert "\n" not in str(error)
        assert "the secret itself" not in str(error)
    else:
        call()
    assert not wire.exists(), "the canary fired"


def test_the_corpus_is_large_and_its_names_differ() -> None:
    names = [canary.name for canary in CORPUS]
    assert len(set(names)) == len(names) >= 40


def test_the_wires_trip() -> None:
    """A bait that cannot fire would prove nothing."""
    import os
    import pickle
    import tempfile

    wire = Path(tempfile.mkdtemp()) / "wire"
    pickle.loads(pickled(wire))  # noqa: S301
    assert wire.exists()
    wire.unlink()
    os.system(Trip(wire).__reduce__()[1][0])
    assert wire.exists()
