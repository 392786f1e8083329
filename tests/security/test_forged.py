"""Runs that a stranger changed, every hash made right again: none is ranked, each is named, and nothing breaks or hangs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from baits import rehash
from fakes import make_model, place, write_task

from assay import Plan, evaluate, read_run
from assay.harness.decide.compare import side_of
from assay.harness.engines.scripted import Fault, Scripted, faulty, hashed
from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.places import Access
from assay.harness.run.evaluate import resume
from assay.harness.run.merge import merge
from assay.harness.run.scoring.results import rescore
from assay.harness.run.scoring.verify import recompute, verify
from assay.harness.run.selection import select
from assay.harness.store import check, find_run, index, list_runs, open_writer, query
from assay.harness.store.bundle import item_set

FILES = ("samples.parquet", "items.parquet", "item_stats.parquet")
ITEMS = 16
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of a task that stays where it is, and one of its first three items."""
    folder = tmp_path_factory.mktemp("forged")
    make_model(folder / "model")
    write_task(folder, ITEMS)
    for name, limit in (("whole", None), ("limited", 3)):
        (folder / name).mkdir()
        evaluate(Plan(str(folder / "model"), (str(folder / "sums.py"),), engine="scripted", limit=limit), place(folder / name))
    return folder


def copy_of(home: Path, root: Path, which: str = "whole") -> Path:
    (bundle,) = (home / which / "results" / "runs").iterdir()
    return Path(shutil.copytree(bundle, root / "runs" / bundle.name))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def manifest(bundle: Path, change: Callable[[Any], object]) -> None:
    edit(bundle / "manifest.json", change)
    rehash(bundle)


def result(**values: Any) -> Change:
    return lambda bundle: edit(bundle / "summary.json", lambda summary: summary["results"][0].update(values))


def column(bundle: Path, file: str, name: str, values: Callable[[list[Any]], list[Any]]) -> None:
    table = pyarrow.parquet.read_table(bundle / file)
    at = table.column_names.index(name)
    changed = pyarrow.array(values(table[name].to_pylist()), table.schema.field(name).type)
    pyarrow.parquet.write_table(table.set_column(at, name, changed), bundle / file)


def rows(bundle: Path, files: tuple[str, ...], keep: Callable[[Any, Any], Any]) -> None:
    """Keeps some rows of some files; `keep` is given the table and which of its items are right."""
    right = pyarrow.array([value == 1.0 for value in pyarrow.parquet.read_table(bundle / "samples.parquet")["correct"].to_pylist()])
    for file in files:
        pyarrow.parquet.write_table(keep(pyarrow.parquet.read_table(bundle / file), right), bundle / file)


def told_anew(bundle: Path, **facts: Any) -> None:
    """The manifest counts what items.parquet holds, and the summary has the scores that the statistics give."""
    digest = hashlib.sha256((bundle / "items.parquet").read_bytes()).hexdigest()
    count = pyarrow.parquet.read_metadata(bundle / "items.parquet").num_rows
    manifest(bundle, lambda value: (value.update(items=count, items_sha256=digest), value["tasks"][0].update(facts)))
    again = rescore(read_run(bundle), Access())
    edit(bundle / "summary.json", lambda summary: summary.update(results=again))


def doubled_row(bundle: Path) -> None:
    edit(bundle / "summary.json", lambda value: value["results"].insert(0, {**value["results"][0], "value": 0.99, "high": 1.0}))


def statistics_of_one(bundle: Path) -> None:
    column(bundle, "item_stats.parquet", "stats", lambda values: [[1.0]] * len(values))
    told_anew(bundle)


def right_statistics_only(bundle: Path) -> None:
    rows(bundle, ("item_stats.parquet",), lambda table, right: table.filter(right))
    told_anew(bundle)


def right_items_only(**facts: Any) -> Change:
    def change(bundle: Path) -> None:
        rows(bundle, FILES, lambda table, right: table.filter(right))
        told_anew(bundle, **facts)

    return change


def honest_set(bundle: Path) -> None:
    """The wrong items are gone, and everything that is derived from the items alone says so."""
    rows(bundle, FILES, lambda table, right: table.filter(right))
    told_anew(bundle)
    items = read_run(bundle).items()
    manifest(bundle, lambda value: (value.update(item_set=item_set(items)), value["tasks"][0].update(items=len(items))))
    again = rescore(read_run(bundle), Access())
    edit(bundle / "summary.json", lambda summary: summary.update(results=again))


def right_items_often(bundle: Path) -> None:
    rows(bundle, FILES, lambda table, right: pyarrow.concat_tables([table] + [table.filter(right)] * 5))
    told_anew(bundle)


def picks_of_gold(bundle: Path) -> None:
    """The picks are right, the log-probabilities beside them say otherwise."""
    column(bundle, "samples.parquet", "record", lambda texts: [json.dumps({**json.loads(text), "pick": 1}) for text in texts])
    column(bundle, "samples.parquet", "output", lambda texts: pyarrow.parquet.read_table(bundle / "samples.parquet")["gold"].to_pylist())
    column(bundle, "samples.parquet", "correct", lambda values: [1.0] * len(values))
    statistics_of_one(bundle)


def golds_of_picks(bundle: Path) -> None:
    """What was picked is declared to be right, everywhere."""
    picks = [json.loads(text)["pick"] for text in pyarrow.parquet.read_table(bundle / "samples.parquet")["record"].to_pylist()]
    said = pyarrow.parquet.read_table(bundle / "samples.parquet")["output"].to_pylist()
    column(
        bundle, "items.parquet", "doc", lambda docs: [json.dumps({**json.loads(d), "gold": p}) for d, p in zip(docs, picks, strict=True)]
    )
    for file in ("items.parquet", "samples.parquet"):
        column(bundle, file, "gold", lambda golds: said)
    column(bundle, "samples.parquet", "correct", lambda values: [1.0] * len(values))
    statistics_of_one(bundle)
    manifest(bundle, lambda value: value.update(item_set=item_set(read_run(bundle).items())))


def complete_everywhere(bundle: Path) -> None:
    result(evidence="complete")(bundle)
    manifest(bundle, lambda value: (value.update(evidence="complete"), value["tasks"][0].update(evidence="complete")))
    manifest(bundle, lambda value: value["plan"].update(limit=None))


def sample(name: str, value: Any) -> Change:
    return lambda bundle: column(bundle, "samples.parquet", name, lambda values: [value] * len(values))


LIES: Mapping[str, tuple[str, Change, str]] = {
    "part as whole, in the summary": ("limited", result(evidence="complete"), "evidence of accuracy on sums is stored as complete"),
    "part as whole, everywhere": ("limited", complete_everywhere, f"the 3 items of sums are all, the data have {ITEMS}"),
    "two rows, the lie first": ("whole", doubled_row, "accuracy of sums is stored twice"),
    "another direction": ("whole", result(better="lower"), "better of accuracy on sums is stored as lower"),
    "another unit": ("whole", result(unit=0.5), "unit of accuracy on sums is stored as 0.5"),
    "another chance": ("whole", result(chance=0.0), r"chance of accuracy on sums is stored as 0\.0"),
    "another purpose": ("whole", result(purpose="smoke"), "purpose of accuracy on sums is stored as smoke"),
    "a field of its own": ("whole", result(prize=1), "prize of accuracy on sums is stored as 1"),
    "statistics of one": ("whole", statistics_of_one, r"stores \[1\.0\] as its accuracy, its output gives \[0\.0\]"),
    "statistics of right items only": ("whole", right_statistics_only, "have no statistics of accuracy"),
    "right items only": ("whole", right_items_only(), f"{ITEMS} items of sums were planned"),
    "right items only, counted": ("whole", right_items_only(items=3), "item_set differs|were planned"),
    "right items only, everywhere": ("whole", honest_set, "not those of its fingerprint"),
    "right items many times": ("whole", right_items_often, "items.parquet contains the item .* 6 times"),
    "right picks": ("whole", picks_of_gold, "as its choice, its output gives"),
    "what was picked is right": ("whole", golds_of_picks, "not those of its fingerprint"),
    "a status that is none": ("whole", sample("status", "evil"), "an unknown status, such as 'evil'"),
    "errors that are scored": ("whole", sample("status", "error"), "failed, but have statistics"),
    "more than right": ("whole", sample("correct", 7.0), r"is 7\.0, outside of 0 to 1"),
    "other golds shown": ("whole", sample("gold", "x"), "column 'gold' of samples.parquet"),
    "other outputs shown": ("whole", sample("output", "x"), "differs from the recorded outputs"),
    "other clusters": (
        "whole",
        lambda bundle: column(bundle, "item_stats.parquet", "item_cluster", lambda values: ["c"] * len(values)),
        "not of the items that were planned",
    ),
    "another item set": ("whole", lambda bundle: manifest(bundle, lambda value: value.update(item_set="0" * 64)), "item_set differs"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named_and_never_ranked(home: Path, tmp_path: Path, name: str) -> None:
    which, change, told = LIES[name]
    bundle = copy_of(home, tmp_path, which)
    change(bundle)
    rehash(bundle)
    trouble = index(tmp_path, verify=verify(Access())).trouble
    assert list(trouble) == [bundle.name]
    assert re.search(told, trouble[bundle.name]), trouble[bundle.name]
    assert query(tmp_path, "SELECT * FROM leaderboard") == query(tmp_path, "SELECT * FROM scores") == []
    problems = [problem for problem in check(tmp_path, lambda run: recompute(run, Access())) if re.search(told, problem.what)]
    assert problems and all(problem.do for problem in problems)


def test_an_honest_copy_and_an_honest_part_are_believed(home: Path, tmp_path: Path) -> None:
    for which in ("whole", "limited"):
        copy_of(home, tmp_path, which)
    assert index(tmp_path, verify=verify(Access())).trouble == {}
    assert query(tmp_path, "SELECT evidence, count(*) FROM run GROUP BY evidence ORDER BY evidence") == [("complete", 1), ("limited", 1)]
    assert query(tmp_path, "SELECT n FROM leaderboard") == [(ITEMS,)]
    assert not check(tmp_path, lambda run: recompute(run, Access()))


def test_a_summary_can_only_weaken_the_evidence(home: Path, tmp_path: Path) -> None:
    bundle = copy_of(home, tmp_path, "limited")
    edit(bundle / "summary.json", lambda summary: (summary.update(evidence="complete"), summary["results"][0].update(evidence="complete")))
    rehash(bundle)
    assert side_of(read_run(bundle), Access()).evidence == "limited"
    index(tmp_path)  # nothing is verified
    assert query(tmp_path, "SELECT r.evidence, s.evidence FROM run r JOIN score s USING (run_id)") == [("limited", "limited")]
    assert query(tmp_path, "SELECT * FROM leaderboard") == []


def test_a_copied_folder_never_stands_for_the_run_that_it_names(home: Path, tmp_path: Path) -> None:
    mine = copy_of(home, tmp_path)
    copied = Path(shutil.copytree(mine, mine.with_name("0000")))
    manifest(copied, lambda value: value["model"].update(name="STRANGER"))
    assert "whose id differs from the folder's name" in index(tmp_path, verify=verify(Access())).trouble["0000"]
    assert query(tmp_path, "SELECT run_id FROM runs WHERE model <> 'STRANGER'") == [(mine.name,)]
    assert find_run(tmp_path, mine.name) == mine
    assert any("whose id differs from the folder's name" in problem.what for problem in check(tmp_path))


def test_a_journal_with_other_statistics_is_asked_again(home: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    write_task(tmp_path, ITEMS)
    plan = Plan(str(tmp_path / "model"), (str(tmp_path / "sums.py"),), engine="scripted")
    with pytest.raises(Incomplete):
        evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(faulty(hashed(3), Fault("raise", at=6))))
    (bundle,) = (tmp_path / "results" / "runs").iterdir()
    head, *lines = (bundle / "journal.jsonl").read_bytes().splitlines()
    made = [head]
    for line in lines:
        value = json.loads(line[9:]) | {"stats": {"accuracy": [1.0]}, "correct": 1.0}
        payload = json.dumps(value, separators=(",", ":")).encode()
        made.append(b"%08x %s" % (zlib.crc32(payload), payload))
    (bundle / "journal.jsonl").write_bytes(b"\n".join(made) + b"\n")
    resume(bundle, place(tmp_path), opener=lambda *_: Scripted(hashed(3)))
    whole = evaluate(plan, place(tmp_path / "again"), opener=lambda *_: Scripted(hashed(3)))
    assert len(lines) >= 4
    assert read_run(bundle).summary()["results"] == read_run(whole).summary()["results"]
    assert not check(tmp_path / "results", lambda run: recompute(run, Access()))


SHAPES: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "no plan": ("manifest.json", lambda value: value.pop("plan")),
    "a plan of nothing": ("manifest.json", lambda value: value.update(plan={})),
    "numbers as tasks of the plan": ("manifest.json", lambda value: value["plan"].update(tasks=[7, None])),
    "a limit of text": ("manifest.json", lambda value: value["plan"].update(limit="x")),
    "no model": ("manifest.json", lambda value: value.pop("model")),
    "a model without a name": ("manifest.json", lambda value: value["model"].update(name=None)),
    "half a character": ("manifest.json", lambda value: value["model"].update(name="\ud800")),
    "an engine of 7": ("manifest.json", lambda value: value.update(engine=7)),
    "tasks of 7": ("manifest.json", lambda value: value.update(tasks=7)),
    "a task with a name only": ("manifest.json", lambda value: value.update(tasks=[{"name": "sums"}])),
    "facts without evidence": ("manifest.json", lambda value: value["tasks"][0].pop("evidence")),
    "a thirteenth month": ("manifest.json", lambda value: value.update(created_at="2025-13-45T99:99:99+00:00")),
    "an id of dots": ("manifest.json", lambda value: value.update(run="..")),
    "results of 7": ("summary.json", lambda value: value.update(results=7)),
    "a result of 7": ("summary.json", lambda value: value.update(results=[7])),
    "a result with a task only": ("summary.json", lambda value: value.update(results=[{"task": "sums"}])),
    "a list as task": ("summary.json", lambda value: value["results"][0].update(task=["x"])),
    "a score of text": ("summary.json", lambda value: value["results"][0].update(value="0.5")),
    "no tokens": ("summary.json", lambda value: value.pop("tokens")),
    "seconds of text": ("summary.json", lambda value: value["seconds"].update(engine="x")),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_that_is_none_is_one_clear_error_everywhere(home: Path, tmp_path: Path, name: str) -> None:
    file, change = SHAPES[name]
    bundle = copy_of(home, tmp_path)
    edit(bundle / file, change)
    rehash(bundle)
    assert len(list_runs(tmp_path)) == 1
    assert list(index(tmp_path, verify=verify(Access())).trouble) == [bundle.name]
    assert any(problem.do for problem in check(tmp_path, lambda run: recompute(run, Access())))
    with pytest.raises(AssayError) as caught:
        side_of(read_run(bundle), Access())
    assert caught.value.do


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def reads_of(bundle: Path) -> list[Callable[[], object]]:
    root = bundle.parent.parent
    return [
        lambda: read_run(bundle).records(),
        lambda: read_run(bundle).summary(),
        lambda: open_writer(bundle).__enter__(),
        lambda: index(root, [bundle]),
    ]


@pytest.mark.parametrize("make", [os.mkfifo, device, sparse, Path.mkdir])
@pytest.mark.parametrize("name", ["DONE", "manifest.json", "summary.json", "samples.parquet", "item_stats.parquet", "journal.jsonl"])
def test_what_is_no_plain_file_is_refused_at_once(home: Path, tmp_path: Path, name: str, make: Change) -> None:
    bundle = copy_of(home, tmp_path)
    (bundle / name).unlink(missing_ok=True)
    if name == "journal.jsonl":
        (bundle / "DONE").unlink()
    make(bundle / name)
    assert len(list_runs(tmp_path)) == 1
    index(tmp_path, verify=verify(Access()))
    assert query(tmp_path, "SELECT * FROM leaderboard") == []
    assert check(tmp_path)
    refused = 0
    for read in reads_of(bundle):
        try:
            read()
        except AssayError as error:
            refused += bool(error.do)
    assert refused >= 1


def test_a_folder_of_runs_that_is_a_link_to_itself_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs").symlink_to("runs")
    assert list_runs(tmp_path / "results") == ()
    assert index(tmp_path / "results").indexed == ()
    plan = Plan(str(home / "model"), (str(home / "sums.py"),), engine="scripted")
    with pytest.raises(AssayError, match="a broken symbolic link"):
        evaluate(plan, place(tmp_path))


KINDS = '''"""One task of every kind of answer."""
from assay import Choose, Doc, Generate, Metric, Perplexity, Regress, Completion, Shots, Task, accuracy, exact_match, inline
from assay.harness.metrics.bigbench import choice_metrics
from assay.harness.metrics.likelihood import bits_per_byte, perplexity
from assay.harness.metrics.regression import pearson, spearman
from assay.harness.metrics.text import bleu

ROWS = [{"n": n, "w": "abcdefgh"[n] * 3} for n in range(8)]
PAST = [{"n": 10 + n, "w": "xyz"[n]} for n in range(3)]


def pick(row):
    return Doc(f"{row['n']} + 1 =", choices=(str(row["n"] + 1), "some" + "x" * row["n"]), gold=row["n"] % 2, cluster=f"c{row['n'] // 2}",
               meta={"pair": (row["n"], 1), 7: "seven", 10: "ten"}, inputs=(str(row["n"]),))


def graded(row):
    return Doc(f"{row['n']} + 1 =", choices=("a", "b"), targets=(0.25, 0.5))


def say(row):
    return Doc(f"Say {row['w']}:", references=(row["w"], row["w"].upper()))


def rate(row):
    return Doc(f"Rate {row['w']}:", value=float(row["n"]))


def searching(doc, output):
    return (float(len(output.text) > 0 and doc.prompt.startswith("Say")),)


def paired(doc, output):
    return (float(doc.meta["pair"] == (doc.meta["pair"][0], 1)),)


DATA = inline(test=ROWS, train=PAST)
TASKS = (
    *(Task(f"pick-{how}", DATA, pick, Choose(how), (accuracy,), shots=Shots(2, "train")) for how in ("sum", "chars", "bytes", "tokens")),
    Task("calibrated", DATA, pick, Choose(calibrate="Answer:"), (accuracy, Metric("paired", paired))),
    Task("graded", DATA, graded, Choose(), tuple(choice_metrics(('multiple_choice_grade',)).values())),
    Task("say", DATA, say, Generate(8), (exact_match, bleu(), Metric("found", searching))),
    Task("often", DATA, say, Generate(8, temperature=0.7, samples=3), (exact_match,)),
    Task("read", DATA, say, Perplexity(), (bits_per_byte, perplexity)),
    Task("rate", DATA, rate, Regress(("1", "2", "3"), (1.0, 2.0, 3.0)), (pearson, spearman)),
)
'''


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    make_model(folder / "model")
    (folder / "kinds.py").write_text(KINDS)
    return folder


def kinds_plan(folder: Path, **changes: Any) -> Plan:
    return Plan(**{"model": str(folder / "model"), "tasks": (str(folder / "kinds.py"),), "engine": "scripted", **changes})


@pytest.mark.parametrize("changes", [{}, {"limit": 5, "seed": 3}, {"drop_shots": True, "shots": 1}])
def test_every_kind_of_honest_run_is_believed_from_a_copy(kinds: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    bundle = evaluate(kinds_plan(kinds, **changes), place(tmp_path))
    copied = tmp_path / "copied"
    shutil.copytree(bundle, copied / "runs" / bundle.name)
    assert index(copied, verify=verify(Access())).trouble == {}
    assert query(copied, "SELECT count(*) FROM score WHERE evidence = 'unverified'") == [(0,)]
    assert not check(copied, lambda run: recompute(run, Access()))


def test_parts_and_the_run_that_they_make_are_believed(kinds: Path, tmp_path: Path) -> None:
    parts = [evaluate(kinds_plan(kinds, shard=shard), place(tmp_path)) for shard in ("1/2", "2/2")]
    merge(parts, place(tmp_path))
    (tmp_path / "results" / "assay.duckdb").unlink()
    assert index(tmp_path / "results", verify=verify(Access())).trouble == {}
    assert not check(tmp_path / "results", lambda run: recompute(run, Access()))


def test_a_metric_that_reads_the_question_needs_the_data(kinds: Path, tmp_path: Path) -> None:
    """Other rows than those of the run are here now: what reads a Doc's own prompt can be neither confirmed nor refuted."""
    task = tmp_path / "kinds.py"
    task.write_text(KINDS)
    bundle = evaluate(kinds_plan(kinds, tasks=(str(task),)), place(tmp_path))
    copied = tmp_path / "copied"
    shutil.copytree(bundle, copied / "runs" / bundle.name)
    task.write_text(KINDS.replace("range(8)", "range(7)"))
    select([str(task)], Access())  # the user names the file as it is now
    assert index(copied, verify=verify(Access())).trouble == {}
    assert query(copied, "SELECT DISTINCT evidence FROM score") == [("unverified",)]
    assert query(copied, "SELECT * FROM leaderboard") == []
    assert [problem.what for problem in check(copied, lambda run: recompute(run, Access())) if "its output gives" in problem.what]
