"""The model that the tests of studies tune: an untrained toy."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay import ModelRef
from assay.tuners import toy


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy.fresh_model(0, width=16, layers=2).save_pretrained(folder)
    toy.save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def base(toy_folder: Path) -> ModelRef:
    return ModelRef("toy", toy_folder, "digest", positions=128)
