"""The gate on the real built-in model (mark: model): the same weights never regress, rounded ones do.

Run: pytest -m model tests/harness/test_real_gate.py. `python -m tests.sim.real` does the same on benchmark data, with a fine-tune.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import place
from rounding import round_model

from assay import Plan, evaluate, read_run
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import Gate, gate_stored

pytestmark = pytest.mark.model

TASK = '''"""Which of two sentences is grammatical? Number agreement of subject and verb."""
from assay import Choose, Doc, Task, accuracy, inline

NOUNS = "dog cat bird horse teacher farmer doctor child".split()
VERBS = "sleep run eat sing wait leave work laugh".split()
ROWS = [{"noun": noun, "verb": verb, "many": many} for noun in NOUNS for verb in VERBS for many in (0, 1)]


def doc(row):
    noun = {"child": "children"}.get(row["noun"], row["noun"] + "s") if row["many"] else row["noun"]
    pair = [f"The {noun} near the old house {verb} every day." for verb in (row["verb"], row["verb"] + "s")]
    return Doc("", choices=tuple(pair), gold=1 - row["many"])


TASKS = (Task("agreement", inline(test=ROWS), doc, Choose(), (accuracy,)),)
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    (folder / "agreement.py").write_text(TASK)
    return folder


@pytest.fixture(scope="module")
def base(home: Path, builtin_model: Path) -> Path:
    return score(home, builtin_model, repeat_check=True)


def score(home: Path, model: Path, **plan: Any) -> Path:
    return evaluate(Plan(model=str(model), tasks=(str(home / "agreement.py"),), engine="hf", **plan), place(home))


def judged(home: Path, candidate: Path, base: Path) -> Gate:
    return gate_stored(home / "results", candidate.name, base.name, Policy(margin=3.0), place(home).access())


def test_other_batches_move_nothing_that_matters_and_never_regress(home: Path, base: Path, builtin_model: Path) -> None:
    noise = read_run(base).summary()["noise"]["batches"]["tasks"]["agreement"]
    assert noise["items"] == 128 and noise["flipped"] <= 3 and noise["max_logprob"] < 1e-2
    found = judged(home, score(home, builtin_model, budget=50 << 20), base)
    assert found.exit_code == 0 and found.decision.floor is not None


def test_rounding_to_four_bits_is_caught_and_the_task_named(home: Path, base: Path, builtin_model: Path) -> None:
    found = judged(home, score(home, round_model(builtin_model, home / "rounded")), base)
    assert found.exit_code == 10 and found.decision.reasons[0].startswith("agreement lost")
    assert found.comparison.main[0].baseline > 0.85
