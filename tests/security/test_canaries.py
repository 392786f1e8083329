"""No canary fires, and every refusal says what, where and what to do. Run: pytest tests/security"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from baits import Canary, Trip, bring_code, pickled
from corpus import CORPUS
from fakes import make_model

from assay.harness.engines import Settings
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef
from assay.tuners.study.trial import open_base


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


def opened_by_hf(folder: Path) -> None:
    open_engine("hf", ModelRef("m", folder, "digest"), Settings(device="cpu"))


OPENERS: dict[str, Callable[[Path], object]] = {"engine hf": opened_by_hf, "tuners": open_base}


@pytest.mark.parametrize("kind", ["llama", "evil"])
@pytest.mark.parametrize("opener", OPENERS)
def test_code_of_a_model_that_nothing_checked_does_not_run(opener: str, kind: str, tmp_path: Path) -> None:
    """Straight to the libraries, past our own check: they must be told not to run code."""
    home, wire = make_model(tmp_path / "model"), tmp_path / "wire"
    bring_code(home, wire, kind)
    if kind == "llama":  # transformers knows it itself; the engine may refuse it before
        with suppress(AssayError):
            OPENERS[opener](home)
    else:
        with pytest.raises((AssayError, ValueError), match=r"evil|custom code|its own code|remote code"):
            OPENERS[opener](home)
    assert not wire.exists(), "the canary fired"


def test_code_of_a_model_would_run_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bait of the test above can fire."""
    import transformers

    home, wire = make_model(tmp_path / "model"), tmp_path / "wire"
    bring_code(home, wire, "evil")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    with pytest.raises(AttributeError, match="Config"):
        transformers.AutoModelForCausalLM.from_pretrained(home, local_files_only=True, trust_remote_code=True)
    assert wire.exists()


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
