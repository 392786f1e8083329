"""Six kinds of faults for every benchmark family and engine. Run: pytest tests/cases/test_families.py

vLLM: tests/contracts/test_vllm_cases.py. The table is in results/checks/CASES.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.families import CASES, FAMILIES, SAID, Subject, keeping, make_answering_model, scripted

from assay.harness.engines import Engine
from assay.harness.engines.opening import open_engine
from tests.faulty_server import serving

ENGINES = ("scripted", "hf", "child:hf", "served")
PAIRS = [(engine, case) for engine in ENGINES for case in CASES if (engine, case) != ("served", "5")]
"""A server that is sent text counts the tokens itself: whether an item fits is not known before it answers."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_answering_model(tmp_path_factory.mktemp("answering"))


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[str, Engine]]:
    engines: dict[str, Engine] = {}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture
def subject(request: pytest.FixtureRequest, model: Path, opened: dict[str, Engine]) -> Iterator[Subject]:
    engine = request.param
    if engine == "served":
        pytest.importorskip("openai")
        with serving(answer=lambda prompt: f" {SAID}") as state:
            yield Subject("auto", model, open_engine, state.address)
    else:
        yield Subject(engine, model, scripted if engine == "scripted" else keeping(opened))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("subject", "case"), PAIRS, indirect=["subject"])
def test_every_family_and_engine_holds(case: str, family: str, subject: Subject, tmp_path: Path) -> None:
    CASES[case](subject, family, tmp_path)
