"""Generated programs run in a sandbox that works, or not at all; pass@k. Run: pytest tests/harness/files/test_sandbox.py"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from assay import Access, AssayError, Completion, Doc
from assay.harness.files import sandbox
from assay.harness.metrics.code import estimate, pass_at
from assay.tasks.code import GREEDY, ROW, humaneval

WORKS = not sandbox.self_test()
needs_it = pytest.mark.skipif(not WORKS, reason="the sandbox does not work on this machine")


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
        null = subprocess.DEVNULL
        command = [sys.executable, "-I", "-S", str(path)]
        outside = subprocess.run(command, cwd=tmp_path, stdin=null, stdout=null, stderr=null, timeout=60, check=False)
        assert outside.returncode == 0
    assert not sandbox.passes(sandbox.ATTACKS[name], sandbox.TESTS.get(name, ""), seconds=1)


@needs_it
def test_ordinary_programs_run_and_failing_ones_do_not_pass() -> None:
    assert sandbox.passes("import json, random, string, functools, datetime, typing\nprint(json.dumps({'a': 1}))\n")
    assert not sandbox.passes("assert 1 == 2\n") and not sandbox.passes("def broken(:\n") and not sandbox.passes("raise SystemExit(0)\n")


VALUES = (
    ("def add(a, b): return a + b", "assert add(1, b=2) == 3"),
    ("def order(x): x.sort()", "x = [3, 1]\norder(x)\nassert x == [1, 3]"),
    (
        "class Pile:\n    def __init__(self): self.all = []\n    def push(self, x): self.all.append(x); return self",
        "assert Pile().push(1).all == [1]",
    ),
    ("def up(n):\n    yield from range(n)", "assert list(up(3)) == [0, 1, 2] and next(up(1)) == 0"),
    (
        "def no(x): raise KeyError('a')",
        "try:\n    no(1)\nexcept KeyError as error:\n    assert error.args == ('a',)\nelse:\n    assert False",
    ),
    ("def all_kinds(): return {(1, 10**5000): {None}, 'a': [b'x', 1j, frozenset([.5])]}", ""),
    ("import math", "assert math.isqrt(9) == 3"),
)


@needs_it
@pytest.mark.parametrize(("program", "test"), VALUES)
def test_a_test_sees_the_values_that_the_program_returns(program: str, test: str) -> None:
    kinds = "assert all_kinds() == {(1, 10**5000): {None}, 'a': [b'x', 1j, frozenset([.5])]}"
    assert sandbox.passes(program, test or kinds)
    assert not sandbox.passes(program, f"{test or kinds}\nassert False")


FORGERIES = (
    "import os\nos._exit(0)",
    "import sys\ndef add(a, b): sys.exit(0)",
    "import os\ndef add(a, b): os._exit(0)",
    "class Any:\n    def __eq__(self, other): return True\ndef add(a, b): return Any()",
    "import builtins\nbuiltins.AssertionError = Warning\ndef add(a, b): return 4",
    "def abs(x): return 0\ndef add(a, b): return 4",
    "def close(a, b): return True\ndef add(a, b): return 4",
    "import sys\nsys.settrace(lambda *_: None)\ndef check(add): pass\ndef add(a, b): return 4",
)


@needs_it
@pytest.mark.parametrize("program", FORGERIES)
def test_a_wrong_program_cannot_write_its_verdict(program: str) -> None:
    prompt = "def close(a, b):\n    return abs(a - b) < 0.1\n\n\ndef add(a, b):\n    'Adds.'\n"
    doc = Doc(prompt, references=("x",), meta={"test": "def check(what):\n    assert close(what(1, 2), 3) and what(1, 2) == 3\ncheck(add)"})
    assert pass_at(1).measure(doc, Completion("    return a + b\n")) == (1.0,)
    assert pass_at(1).measure(doc, Completion(f"    return 4\n{program}\n")) == (0.0,)


@needs_it
def test_a_program_cannot_add_names_that_were_not_requested() -> None:
    replies = (
        '{"value": null}',
        '{"value": ["dict", [["tuple", ["abs", ["object", 0]]], ["tuple", ["add", ["object", 1]]]]]}',
        *['{"value": 0}'] * 9,
    )
    lines = "".join(f"{line}\n" for line in replies).encode()
    forged = f"import os\nfor out in range(64):\n    try:\n        os.write(out, {lines!r})\n    except OSError:\n        pass\n"
    assert sandbox.passes(forged, "assert add(1, 2) == 0")  # it reaches the test's process
    assert not sandbox.passes(forged, "assert abs(add(1, 2) - 3) < 0.1")


@needs_it
def test_a_tested_function_may_have_the_name_of_a_builtin() -> None:
    doc = Doc("def sum(x):\n    'The sum.'\n", references=("x",), meta={"test": "assert sum([1, 2]) == 3"})
    assert pass_at(1).measure(doc, Completion("    return x[0] + x[1]\n")) == (1.0,)
    assert pass_at(1).measure(doc, Completion("    return 0\n")) == (0.0,)


@needs_it
def test_excessive_output_does_not_fill_our_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not sandbox.passes(sandbox.ATTACKS["excessive output"], seconds=3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    assert not sandbox.passes("def add(a, b): return 'x' * 100_000_000", "add(1, 2)")


@needs_it
def test_right_and_wrong_completions() -> None:
    doc = humaneval(ROW)
    assert pass_at(1).measure(doc, Completion("    return x + x\n")) == (1.0,)
    assert pass_at(1).measure(doc, Completion("    return x\n")) == (0.0,)
    two_of_four = Completion("", samples=("    return 2 * x", "    return x", "    return x * 2", "    while True: pass"))
    assert pass_at(2).measure(doc, two_of_four) == (pytest.approx(5 / 6),)


def test_nothing_runs_without_a_working_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "self_test", lambda: ("the network",))
    with pytest.raises(AssayError, match="does not work on this machine: the network"):
        GREEDY.rows.load("test", Access(offline=True))
    with pytest.raises(AssayError, match="does not work on this machine"):
        pass_at(1).measure(Doc("", references=("x",), meta={"test": ""}), Completion("print()"))
