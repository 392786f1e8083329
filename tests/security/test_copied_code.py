"""Results that are copied bring no code: what only a manifest names is not run, by no command; what a person named is."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from baits import code, rehash
from fakes import FILE_TASK, make_model, place, write_task

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.checking import check_run
from assay.harness.checking.audit import audit
from assay.harness.checking.repeatability import rescore_sample
from assay.harness.checking.rerun import rerun
from assay.harness.cli.watch import watched_plan
from assay.harness.decide.history import select_runs, trend
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import gate_stored
from assay.harness.engines.scripted import Fault, Scripted, faulty, hashed
from assay.harness.errors import Incomplete
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import resume
from assay.harness.run.scoring.verify import recompute, verify
from assay.harness.store import check, index, query

REFUSED = "not trusted on this machine"


@dataclass(frozen=True, slots=True)
class Clone:
    """A stranger's folder: a complete and an interrupted run whose plans name a task file beside them, which trips the wire."""

    home: Path
    whole: Path
    begun: Path
    wire: Path

    @property
    def results(self) -> Path:
        return self.home / "results"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two honest runs of a task file, in a folder and with a cache of their own."""
    home = tmp_path_factory.mktemp("stranger")
    make_model(home / "model")
    plan = Plan(model=str(home / "model"), tasks=(str(write_task(home, 16)),), engine="scripted")
    evaluate(plan, place(home))
    with pytest.raises(Incomplete):
        evaluate(plan, place(home), opener=lambda *_: Scripted(faulty(hashed(3), Fault("raise", at=4))))
    return home


@pytest.fixture
def clone(stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    home, wire = tmp_path / "clone", tmp_path / "wire"
    shutil.copytree(stranger / "results" / "runs", home / "results" / "runs")
    (home / "evil.py").write_text(code(wire) + FILE_TASK.replace("%d", "16"))
    runs = sorted((home / "results" / "runs").iterdir(), key=lambda path: not (path / "DONE").exists())
    for bundle in runs:
        name(bundle, "evil.py")
    monkeypatch.chdir(home)
    return Clone(home, *runs, wire)


def name(bundle: Path, task: object) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["plan"]["tasks"] = [task]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    if (bundle / "DONE").exists():
        rehash(bundle)


def assay(home: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """The command as it is installed: Python itself does not look into the current folder."""
    env = {**os.environ, "ASSAY_CACHE": str(home.parent / "cache"), "ASSAY_DATA": "", "HF_HUB_OFFLINE": "1"}
    env.pop("ASSAY_RESULTS", None)
    start = "import sys; from assay.harness.cli import main; sys.argv[0] = 'assay'; main()"
    found = subprocess.run([sys.executable, "-P", "-c", start, *arguments], capture_output=True, text=True, cwd=home, env=env)
    assert "Traceback" not in found.stderr, found.stderr[-2000:]
    return found


@pytest.mark.parametrize(
    "command",
    ["store index", "store check", "compare WHOLE WHOLE", "resume BEGUN", "run --model MODEL --tasks mine.py --engine scripted --json"],
)
def test_no_command_runs_what_only_a_manifest_names(command: str, clone: Clone, stranger: Path) -> None:
    write_task(clone.home, 60).rename(clone.home / "mine.py")  # enough items for a rank
    words = {"WHOLE": clone.whole.name, "BEGUN": clone.begun.name, "MODEL": str(stranger / "model")}
    found = assay(clone.home, *(words.get(word, word) for word in command.split()))
    assert not clone.wire.exists(), "the canary fired"
    if command.startswith(("compare", "resume")):
        assert found.returncode == 2 and REFUSED in found.stderr and "assay check evil.py" in found.stderr
    elif command == "store check":
        assert found.returncode == 14 and REFUSED in found.stdout
    else:
        assert found.returncode == 0, found.stderr
        ranked = [run for (run,) in query(clone.results, "SELECT run_id FROM leaderboard")]
        assert ranked == ([json.loads(found.stdout)["run"]] if command.startswith("run") else [])


def test_what_a_person_has_named_is_run_for_stored_runs_too(clone: Clone) -> None:
    """The same wire trips once the file is named: the canary above could have fired."""
    assert assay(clone.home, "check", "evil.py").returncode == 0
    assert clone.wire.exists()
    clone.wire.unlink()
    assert assay(clone.home, "compare", clone.whole.name, clone.whole.name).returncode == 0
    assert clone.wire.exists()
    index(clone.results, verify=verify(place(clone.home.parent).access()))
    assert query(clone.results, "SELECT run_id FROM leaderboard") == [(clone.whole.name,)]


READERS: dict[str, Callable[[Clone], object]] = {
    "rerun": lambda clone: rerun(clone.whole, place(clone.home)),
    "audit": lambda clone: audit(read_run(clone.whole), place(clone.home), NoProgress()),
    "resume": lambda clone: resume(clone.begun, place(clone.home)),
    "check": lambda clone: check_run(read_run(clone.whole), place(clone.home).access()),
    "check --rerun": lambda clone: rescore_sample(read_run(clone.whole), 4, place(clone.home), NoProgress()),
    "gate": lambda clone: gate_stored(clone.results, clone.whole.name, clone.whole.name, Policy(), place(clone.home).access()),
    "watch --gate": lambda clone: watched_plan(
        "", clone.whole.name, dict.fromkeys(("tasks", "shots", "protocol"), ""), set(), place(clone.home)
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_nothing_that_reads_a_run_loads_its_code(reader: str, clone: Clone) -> None:
    with pytest.raises(AssayError, match=REFUSED):
        READERS[reader](clone)
    assert not clone.wire.exists(), "the canary fired"


def test_a_trend_leaves_out_what_it_may_not_score(clone: Clone) -> None:
    shutil.rmtree(clone.begun)
    (point,) = trend(clone.results, select_runs(clone.results, (), "time"), place(clone.home).access())
    assert point.run == clone.whole.name and not clone.wire.exists()


@pytest.mark.parametrize(
    "task",
    ["evil.py", "./evil.py", " evil.py ", "evil.py+typos", "ABSOLUTE", "evil:TASKS", "evil:TASKS+typos", "package.evil:TASKS", "this:x"],
)
def test_no_form_of_a_name_runs_code(task: str, clone: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where Python would find the module: in the current folder, as under `python -m`, or installed, but no plugin of ours."""
    monkeypatch.syspath_prepend(str(clone.home))
    monkeypatch.delitem(sys.modules, "this", raising=False)
    (clone.home / "package").mkdir()
    for file in ("__init__.py", "evil.py"):
        (clone.home / "package" / file).write_text((clone.home / "evil.py").read_text())
    name(clone.whole, str(clone.home / "evil.py") if task == "ABSOLUTE" else task)
    access = place(clone.home).access()
    assert index(clone.results, verify=verify(access)).trouble == {}
    assert query(clone.results, "SELECT * FROM leaderboard") == []
    problems = [problem for problem in check(clone.results, lambda run: recompute(run, access)) if REFUSED in problem.what]
    assert len(problems) == 1 and problems[0].do
    assert not clone.wire.exists(), "the canary fired"
    assert "Zen" not in capsys.readouterr().out


LONG = "a" * 5000
NO_NAMES = (7, None, ["evil.py"], "x\0.py", "x\0.jsonl", LONG, LONG + ".py", ":", ":x", "evil:", ".x:y", f"bigbench:{LONG}", "bigbench:x\0")


@pytest.mark.parametrize("task", NO_NAMES, ids=lambda task: repr(task)[:20])
def test_a_name_that_is_none_concerns_its_run_only(task: object, clone: Clone) -> None:
    name(clone.begun, "evil.py")
    name(clone.whole, task)
    access = place(clone.home).access()
    index(clone.results, verify=verify(access))
    assert query(clone.results, "SELECT * FROM leaderboard") == []
    problems = [each for each in check(clone.results, lambda run: recompute(run, access)) if clone.begun.name not in each.where]
    assert problems and all(problem.do for problem in problems[:1])
    assert json.loads(assay(clone.home, "store", "ls", "--json").stdout)["runs"]


def test_a_named_file_that_has_changed_is_refused(clone: Clone) -> None:
    mine = write_task(clone.home, 16)
    here = place(clone.home)
    model = read_run(clone.whole).manifest["plan"]["model"]
    bundle = evaluate(Plan(model=model, tasks=(str(mine),), engine="scripted"), here)
    assert recompute(read_run(bundle), here.access()) == read_run(bundle).summary()["results"]
    mine.write_text(code(clone.wire) + mine.read_text())
    with pytest.raises(AssayError, match="has changed since"):
        recompute(read_run(bundle), here.access())
    assert not clone.wire.exists(), "the canary fired"


def test_a_file_named_for_one_cache_is_not_for_another(clone: Clone) -> None:
    """A cache remembers: another process of the same person believes it, one with another cache asks again."""
    assert assay(clone.home, "show", "evil.py").returncode == 0
    assert "evil.py" in (clone.home.parent / "cache" / "named_code.txt").read_text()
    for cache, trips in ((clone.home.parent / "cache", True), (clone.home / "other", False)):
        clone.wire.unlink(missing_ok=True)
        index(clone.results, verify=verify(replace(place(clone.home), cache=cache).access()))
        assert clone.wire.exists() == trips


def test_a_compiled_copy_is_not_read(clone: Clone) -> None:
    """Python would run it in place of the text that a person reads."""
    mine, evil = write_task(clone.home, 16), clone.home / "evil.py"
    cached = clone.home / "__pycache__" / f"{mine.stem}.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(evil), str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert assay(clone.home, "show", "sums.py").returncode == 0
    assert not clone.wire.exists(), "the canary fired"
