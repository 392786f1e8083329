"""The cases of tests/cases/families.py on vLLM, and ties, NaN and failed items there. Run: pytest tests/contracts/test_vllm_cases.py

Three minutes on two cores: one engine for all families, and one each for the models without a favourite and with NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.common import file_of, results
from cases.families import CASES, FAMILIES, Subject, keeping, make_answering_model

from assay import AssayError
from assay.harness.engines import Engine
from assay.harness.errors import Incomplete
from assay.harness.reports.results import notes

pytestmark = pytest.mark.vllm

CODE = (
    "ROWS = [{'n': n} for n in range(12)]\n"
    "TASKS = (Task('own', inline(test=ROWS), lambda r: Doc(PROMPT, choices=CHOICES, gold=0), Choose(), (accuracy,)),)"
)


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[str, Engine]]:
    engines: dict[str, Engine] = {}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory, opened: dict[str, Engine]) -> Subject:
    return Subject("vllm", make_answering_model(tmp_path_factory.mktemp("answering")), keeping(opened))


def task_file(folder: Path, prompt: str, choices: tuple[str, ...]) -> str:
    """Twelve items; `prompt` is an expression of the row `r`."""
    return file_of(folder, CODE.replace("PROMPT", prompt).replace("CHOICES", repr(choices)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_every_family_holds(case: str, family: str, subject: Subject, tmp_path: Path) -> None:
    CASES[case](subject, family, tmp_path)


def test_a_tie_of_three_counts_a_third(opened: dict[str, Engine], tmp_path: Path) -> None:
    flat = Subject("vllm", make_answering_model(tmp_path / "flat", flat=True), keeping(opened))
    run = flat.run(tmp_path, task_file(tmp_path, "f'Item {r[\"n\"]}:'", ("aa", "bb", "cc")))
    (found,) = results(run).values()
    assert found["value"] == pytest.approx(1 / 3) and all(record.output["tied"] == [0, 1, 2] for record in run.records())
    summary = run.summary()
    assert summary["ties"] == {"own": 12} and any("1/k" in note for note in notes(run.manifest, summary["results"], summary["ties"]))


def test_nan_in_the_weights_is_named_and_not_to_be_resumed(opened: dict[str, Engine], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model = make_answering_model(tmp_path / "nan")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = math.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssayError, match=r"NaN.*up_proj") as caught:
        Subject("vllm", model, keeping(opened)).run(tmp_path, task_file(tmp_path, "f'Item {r[\"n\"]}:'", ("aa", "bb")))
    assert caught.value.exit_code == 14 and "assay resume" not in str(caught.value)


def test_an_item_without_a_number_fails_alone_and_may_be_left_out(opened: dict[str, Engine], tmp_path: Path) -> None:
    broken = Subject("vllm", make_answering_model(tmp_path / "broken", nan_at="~"), keeping(opened))
    task = task_file(tmp_path, "f'Item {r[\"n\"]}' + ('~' if r['n'] == 4 else ':')", ("aa", "b"))
    with pytest.raises(Incomplete, match=r"1 items failed.*--allow-failed"):
        broken.run(tmp_path, task)
    run = broken.run(tmp_path / "allowed", task, allow_failed=True)
    (found,) = results(run).values()
    assert run.status == "complete" and found["n"] == 11 and found["evidence"] != "complete" and not math.isnan(found["value"])
    (error,) = (record.error for record in run.records() if record.status == "error")
    assert "NaN" in error
