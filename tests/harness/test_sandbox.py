"""Generated programs run in a sandbox that holds, or not at all; pass@k. Run: pytest tests/harness/test_sandbox.py"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Access, AssayError, Doc, Said, sandbox
from harness.metrics.code import estimate, pass_at
from tasks.code import GREEDY, ROW, humaneval

HOLDS = not sandbox.self_test()
needs_it = pytest.mark.skipif(not HOLDS, reason="this machine has no sandbox")


@pytest.mark.parametrize(("samples", "right", "k"), [(5, 0, 1), (5, 2, 1), (5, 2, 3), (6, 4, 3), (4, 4, 4), (7, 1, 7)])
def test_the_estimator_is_the_share_of_draws_with_a_right_sample(samples: int, right: int, k: int) -> None:
    draws = list(itertools.combinations([True] * right + [False] * (samples - right), k))
    assert estimate(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_fewer_samples_than_k_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 samples"):
        estimate(5, 1, 10)


@needs_it
@pytest.mark.parametrize("name", sorted(sandbox.ATTACKS))
def test_each_attack_works_outside_the_sandbox_and_fails_inside(name: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(sandbox.ATTACKS[name])
    if name != "an endless loop":
        outside = subprocess.run([sys.executable, "-I", "-S", str(path)], cwd=tmp_path, timeout=60, check=False)
        assert outside.returncode == 0
    assert not sandbox.passes(sandbox.ATTACKS[name], seconds=1)


@needs_it
def test_ordinary_programs_run_and_failing_ones_do_not_pass() -> None:
    assert sandbox.passes("import json, random, string, functools, datetime, typing\nprint(json.dumps({'a': 1}))\n")
    assert not sandbox.passes("assert 1 == 2\n") and not sandbox.passes("def broken(:\n") and not sandbox.passes("raise SystemExit(0)\n")


@needs_it
def test_right_and_wrong_completions() -> None:
    doc = humaneval(ROW)
    assert pass_at(1).measure(doc, Said("    return x + x\n")) == (1.0,)
    assert pass_at(1).measure(doc, Said("    return x\n")) == (0.0,)
    two_of_four = Said("", samples=("    return 2 * x", "    return x", "    return x * 2", "    while True: pass"))
    assert pass_at(2).measure(doc, two_of_four) == (pytest.approx(5 / 6),)


def test_without_a_sandbox_that_holds_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "self_test", lambda: ("the network",))
    with pytest.raises(AssayError, match="does not hold here: the network"):
        GREEDY.rows.load("test", Access(offline=True))
    with pytest.raises(AssayError, match="does not hold here"):
        pass_at(1).measure(Doc("", references=("x",), meta={"test": ""}), Said("print()"))
