"""A study: equal budgets, rates chosen on validation alone, controls, resumable trial by trial; data that must not be mixed up."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay import Access, AssayError, Choose, Doc, Generate, Layout, ModelRef, Perplexity, Task, accuracy, exact_match, inline
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.stages import surroundings
from assay.tuners import toy
from assay.tuners.commands.options import read_budget, read_options, share_options
from assay.tuners.commands.output import run_plan
from assay.tuners.study.design import (
    Study,
    choose_rates,
    control_trials,
    count_trials,
    grid,
    identity,
    mitigated_trials,
    ordered_trials,
    trial_key,
)
from assay.tuners.study.presets import PRESETS, find_preset
from assay.tuners.study.rows import read_rows, write_rows
from assay.tuners.study.scoring import Score, difference, drops_row
from assay.tuners.study.study import run_study
from assay.tuners.study.trial import current_names, early_names, random_labels
from assay.tuners.study.workers import TrialEvent, known_rows, write_study
from assay.tuners.training.data import check_overlap, read_docs, task_examples, text_examples, without_overlap

ACCESS = Access(None, False, True)


def small(**changes: Any) -> Study:
    study = Study(
        name="small",
        targets=("assay.tuners.toy:MAX",),
        retain=("assay.tuners.toy:FIRST",),
        methods=("lora", "full"),
        loss_tokens=24,
        rates=(1.0, 10.0),
        seeds=(0, 1),
        mitigations=("wise_ft=0.5",),
        shots=(1,),
        probes=8,
        examples=64,
        options={"lora": {"rank": 2}},
    )
    return replace(study, **changes)


class Counter:
    """A scorer that reads no model: the target is better with an adapter, `first` is worse; it counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Path, Path | None, str]] = []

    def __call__(
        self, model: Path, adapter: Path | None, tasks: tuple[str, ...], *, split: str = "", shots: int = 0, seed: int = 0,
        limit: int | None = None,
    ) -> dict[str, Score]:  # fmt: skip
        self.calls.append((model, adapter, split))
        found = {}
        for name in tasks:
            right = {"assay.tuners.toy:FIRST": 9 if adapter is None else 7}.get(name, 3 if adapter is None else 6)
            task = "toy/" + name.rpartition(":")[2].lower()
            items = {str(n): float(n < right) for n in range(10)}
            found[task] = Score(task, "accuracy", right / 10, 0.1, items, {n: n for n in items})
        return found


def test_a_study_is_equal_resumable_and_controlled(base: ModelRef, tmp_path: Path) -> None:
    study, scorer = small(), Counter()
    rows = run_study(study, base, ACCESS, scorer, tmp_path)
    roles = [row["role"] for row in rows]
    assert roles.count("grid") == 2 * 2 * 2
    assert {"mitigation", "random_labels", "tenth_rate", "untrained", "base", "in_context"} == set(roles) - {"grid"}
    trained = [row for row in rows if row["role"] in ("grid", "mitigation", "random_labels", "tenth_rate")]
    assert {row["status"] for row in trained} == {"done"} and {row["loss_tokens"] for row in trained} == {24}
    lora = next(row for row in rows if row["method"] == "lora" and row["role"] == "grid")
    assert lora["gain"] == pytest.approx(0.3) and lora["average_drop"] == pytest.approx(0.2) and lora["detached_drop"] == 0
    assert lora["gain_over_in_context"] == pytest.approx(0.3) and lora["parity"] < 1e-4 and lora["kl_target"] > 0
    still = next(row for row in rows if row["role"] == "untrained")
    assert still["kl_target"] == still["kl_base"] == 0

    before = len(scorer.calls)
    victim = tmp_path / "trials" / lora["trial"] / "row.json"
    kept = {path: path.read_text() for path in tmp_path.glob("trials/*/row.json")}
    victim.unlink()
    (tmp_path / "trials.parquet").unlink()
    again = run_study(study, base, ACCESS, scorer, tmp_path)
    assert len(scorer.calls) - before == 2, "only the missing trial is scored: test, retention"
    same = [name for name in rows[0] if name not in ("seconds", "train_seconds", "tokens_per_second", "peak_memory")]
    assert [[row.get(name) for name in same] for row in again] == [[row.get(name) for name in same] for row in rows]
    assert all(path.read_text() == text for path, text in kept.items() if path != victim)

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "trials.parquet")
    wanted = (
        "method family target seed lr mitigation gain gain_low gain_high average_drop kl_base trainable_parameters saved_bytes peak_memory"
    )
    assert table.num_rows == len(rows) and set(wanted.split()) | {"seconds"} <= set(table.column_names)

    with pytest.raises(AssayError, match="the folder holds another study: loss_tokens differ"):
        run_study(replace(study, loss_tokens=48), base, ACCESS, scorer, tmp_path)


def test_a_study_grows_in_its_folder_and_no_finished_trial_is_run_again(base: ModelRef, tmp_path: Path) -> None:
    mine = small(methods=("lora",), rates=(1.0,), seeds=(0,), mitigations=(), controls=False)
    scorer = Counter()
    first = run_study(mine, base, ACCESS, scorer, tmp_path)
    calls = len(scorer.calls)
    more = {
        "targets": ("assay.tuners.toy:MAX", "assay.tuners.toy:MOOD"),
        "seeds": (0, 1),
        "methods": ("lora", "full"),
        "centres": {"full": 1e-4},
    }
    part = run_study(replace(mine, **more, mitigations=("multi_task=1000",), mitigated=("lora",)), base, ACCESS, scorer, tmp_path)
    kept = {row["trial"]: row for row in part}
    assert all(kept[row["trial"]]["gain"] == row["gain"] for row in first) and {row["target"] for row in part} == set(more["targets"])
    assert sum(row["lr"] is not None for row in part) == 2 * 2 * 2 + 2 * 2 and len(scorer.calls) > calls
    assert {"toy/max", "toy/first", "toy/mood"} == set(json.loads((tmp_path / "base.json").read_text())), "a new target's base is added"

    calls = len(scorer.calls)
    again = run_study(mine, base, ACCESS, scorer, tmp_path)
    assert len(scorer.calls) == calls and [row["trial"] for row in again] == [row["trial"] for row in first], "a part of it is finished"
    assert {row["trial"] for row in read_rows(tmp_path / "trials.parquet")} == set(kept), "and the other rows stay"
    facts = json.loads((tmp_path / "study.json").read_text())
    assert (facts["seeds"], facts["methods"], facts["mitigations"]) == ([0, 1], ["lora", "full"], ["multi_task=1000"])

    for changes, name in (
        ({"limit": 5}, "limit"),
        ({"retain": ()}, "retain"),
        ({"centres": {"full": 2e-4}}, "centres"),
        ({"rates": (1.0, 3.0)}, "rates"),  # rows to choose on would no longer be trained on
        ({"targets": ("assay.tuners.toy:MAX", "assay.tuners.toy:MOOD", "assay.tuners.toy:TOPIC")}, "targets"),  # others would be mixed
    ):
        with pytest.raises(AssayError, match=f"another study: {name} differ"):
            run_study(replace(mine, **changes), base, ACCESS, scorer, tmp_path)


def test_published_rows_are_enough_to_resume_elsewhere(base: ModelRef, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    study = small(methods=("lora",), rate_seeds=(7,), controls=False)
    rows = run_study(study, base, ACCESS, Counter(), here)
    there.mkdir()
    for name in ("study.json", "base.json", "trials.parquet"):
        (there / name).write_bytes((here / name).read_bytes())
    silent = Counter()
    again = run_study(study, base, ACCESS, silent, there)
    assert not silent.calls and not list(there.glob("trials/*"))
    assert [row["trial"] for row in again] == [row["trial"] for row in rows]
    facts = ("gain", "drops", "options", "validation_loss", "selected", "break_even", "shots")
    assert [[row.get(name) for name in facts] for row in again] == [[row.get(name) for name in facts] for row in rows]
    assert read_rows(there / "trials.parquet") == read_rows(here / "trials.parquet")


def test_a_study_stored_under_early_task_names_is_resumed(tmp_path: Path) -> None:
    """`cpu-mini` was published when this package was imported as `tuners`: its settings and all its rows still match the preset."""
    published, folder = Path(__file__).parents[2] / "results" / "studies" / "cpu-mini", tmp_path / "cpu-mini"
    folder.mkdir()
    for name in ("study.json", "trials.parquet"):
        (folder / name).write_bytes((published / name).read_bytes())
    stored = (folder / "study.json").read_text()
    assert early_names(stored) == early_names(current_names(stored)), "the two forms are inverses"
    write_study(folder, identity(PRESETS["cpu-mini"], json.loads(stored)["model"]))
    rows = known_rows(folder)
    trials = list(ordered_trials(PRESETS["cpu-mini"], list(rows.values())))
    assert {trial_key(trial) for trial in trials} == set(rows) and len(trials) == len(rows) == 180
    assert {row["target"] for row in rows.values()} == {"glue/sst2", "assay.tuners.retention:LANGUAGE"}
    assert current_names("my.tuners.toy:MAX, tuners.toys:MAX") == "my.tuners.toy:MAX, tuners.toys:MAX"


def test_published_rows_stay_in_the_file_when_a_resumed_run_is_interrupted(base: ModelRef, tmp_path: Path) -> None:
    study = small(methods=("lora",), rate_seeds=(7,), controls=False)
    rows = run_study(study, base, ACCESS, Counter(), tmp_path)
    missing = [row["trial"] for row in rows if row["lr"]][:2]
    write_rows([row for row in rows if row["trial"] not in missing], tmp_path / "trials.parquet")
    shutil.rmtree(tmp_path / "trials")

    def interrupt(now: TrialEvent) -> None:
        if trial_key(now.trial) == missing[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, base, ACCESS, Counter(), tmp_path, interrupt)
    assert {row["trial"] for row in read_rows(tmp_path / "trials.parquet")} == {row["trial"] for row in rows} - {missing[1]}


def test_workers_side_by_side_share_the_trials_and_take_over_from_the_dead(base: ModelRef, tmp_path: Path) -> None:
    def start(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.tuners.side_by_side", str(base.path), str(tmp_path / "shared"), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    dying = start("3")
    assert dying.stdout is not None
    head = dying.stdout.readline()  # it has begun, so its third trial is one that trains
    workers = dying, start(), start()
    begun = [worker.communicate(timeout=300)[0].splitlines() for worker in workers]
    begun[0].insert(0, head.strip())
    every = [line for lines in begun for line in lines]
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0]
    alone = run_study(small(rate_seeds=(7,)), base, ACCESS, Counter(), tmp_path / "alone")
    untrained = [row for row in alone if row["role"] in ("base", "in_context")]
    assert len(begun[0]) == 3 and len(every) == len(alone) + 1, "only the trial of the dead worker is begun twice"
    assert len(set(every)) == len(alone) > len(untrained) and all(begun)
    shared = read_rows(tmp_path / "shared" / "trials.parquet")
    assert [(row["trial"], row.get("final_loss"), row["selected"]) for row in shared] == [
        (row["trial"], row.get("final_loss"), row["selected"]) for row in alone
    ]


def test_one_of_several_processes_of_a_launcher_is_refused(base: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes would wait for each other's trials forever."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AssayError, match="as one of 2 processes"):
        run_study(small(), base, ACCESS, Counter(), tmp_path / "study")
    with pytest.raises(AssayError, match="as one of 2 processes"):
        run_plan(small(), base, surroundings(), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_learning_rate_is_chosen_without_the_test_split_and_an_interrupted_study_is_usable(base: ModelRef, tmp_path: Path) -> None:
    study = small(methods=("lora", "full"), rate_seeds=(7,), mitigations=())
    order: list[tuple[str, str, int]] = []

    class Stopped(Exception):
        pass

    def note(now: TrialEvent) -> None:
        if now.progress is None:
            order.extend([(now.trial.method, now.trial.role, now.trial.seed)] if now.trial.lr else [])
            if len(order) == 4:
                raise Stopped

    scorer = Counter()
    with pytest.raises(Stopped):
        run_study(study, base, ACCESS, scorer, tmp_path, note)
    assert order == [("lora", "rate", 7), ("lora", "rate", 7), ("lora", "grid", 0), ("full", "rate", 7)]
    kept = read_rows(tmp_path / "trials.parquet")
    assert [row["role"] for row in kept].count("grid") == 1
    for row in kept:
        assert ("target_score" in row) == (row["role"] != "rate")
    rows = run_study(study, base, ACCESS, scorer, tmp_path)
    main = [(row["method"], row["seed"]) for row in rows if row["role"] == "grid"]
    assert main == [("lora", 0), ("full", 0), ("lora", 1), ("full", 1)] and len(rows) == count_trials(study)


def test_an_unsupported_method_or_mitigation_is_a_refused_row(base: ModelRef, tmp_path: Path) -> None:
    study = small(methods=("bitfit", "prompt_tuning"), mitigated=("prompt_tuning",), seeds=(0,), rates=(1.0,), controls=False, options={})
    rows = run_study(study, base, ACCESS, Counter(), tmp_path)
    status = {(row["method"], row["mitigation"]): (row["status"], row.get("reason", "")) for row in rows}
    assert status["bitfit", "none"][0] == "refused" and "no bias vectors" in status["bitfit", "none"][1]
    assert status["prompt_tuning", "none"][0] == "done"
    assert "cannot be interpolated" in status["prompt_tuning", "wise_ft=0.5"][1]


def test_a_scoring_error_stops_the_study_and_leaves_the_trial_unfinished(base: ModelRef, tmp_path: Path) -> None:
    class Failing(Counter):
        def __call__(self, model: Path, adapter: Path | None, tasks: tuple[str, ...], **rest: Any) -> dict[str, Score]:
            if adapter is not None:
                raise AssayError("the engine died")
            return super().__call__(model, adapter, tasks, **rest)

    study = small(methods=("lora",), seeds=(0,), rates=(1.0,), controls=False, mitigations=())
    with pytest.raises(AssayError, match="the engine died"):
        run_study(study, base, ACCESS, Failing(), tmp_path)
    assert not list(tmp_path.glob("trials/lora-*/row.json"))
    assert {row["status"] for row in run_study(study, base, ACCESS, Counter(), tmp_path)} == {"done"}


@pytest.mark.parametrize("method", ["full", "lora", "pfeiffer"])
def test_a_full_disk_is_a_one_line_error_and_the_trial_is_run_again(base: ModelRef, tmp_path: Path, method: str) -> None:
    """Once training has begun, files cannot grow beyond a few bytes, as on a full disk."""
    import resource

    study = small(methods=(method,), seeds=(0,), rates=(1.0,), controls=False, mitigations=())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(now: TrialEvent) -> None:
        if now.trial.lr:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))

    try:
        with pytest.raises(AssayError, match="cannot write") as caught:
            run_study(study, base, ACCESS, Counter(), tmp_path, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "free disk space" in str(caught.value) and not list(tmp_path.glob(f"trials/{method}-*/row.json"))
    assert {row["role"] for row in read_rows(tmp_path / "trials.parquet")} == {"base", "in_context"}, "finished rows are unchanged"
    assert {row["status"] for row in run_study(study, base, ACCESS, Counter(), tmp_path)} == {"done"}


def test_rates_are_chosen_on_validation_alone() -> None:
    def row(lr: float, chosen: float, test: float) -> dict[str, Any]:
        return {"role": "grid", "target": "t", "method": "m", "lr": lr, "validation_score": chosen, "target_score": test}

    rows = [row(1.0, 0.5, 0.9), row(1.0, 0.6, 0.9), row(3.0, 0.9, 0.1), row(3.0, 0.4, 0.1)]
    assert choose_rates(rows) == {("t", "m"): 3.0}
    assert choose_rates([*rows, {**row(3.0, 0.0, 0.1), "validation_score": None}]) == {("t", "m"): 1.0}


def test_every_method_gets_equal_trials() -> None:
    for study in PRESETS.values():
        counts = {name: sum(trial.method == name for trial in grid(study)) for name in study.methods}
        assert len(set(counts.values())) == 1 and {trial.loss_tokens for trial in grid(study)} == {study.loss_tokens}
        assert len(study.seeds) == 3 and len(study.methods) >= 10
    chosen = {("t", "full"): 1e-3, ("t", "lora"): 1e-2}
    roles = {trial.role for trial in control_trials(small(targets=("t",)), chosen, 0)}
    assert roles == {"random_labels", "tenth_rate", "untrained"}
    mitigated = list(mitigated_trials(small(targets=("t",)), chosen, "wise_ft=0.5"))
    assert [(trial.method, trial.seed) for trial in mitigated] == [("full", 0), ("lora", 0), ("full", 1), ("lora", 1)]
    assert {(trial.role, trial.mitigation) for trial in mitigated} == {("mitigation", "wise_ft=0.5")}
    with pytest.raises(AssayError, match="did you mean toy"):
        find_preset("toi")


def test_tasks_at_chance_are_listed_and_not_counted() -> None:
    def score(right: int) -> Score:
        items = {str(n): float(n < right) for n in range(40)}
        return Score("t", "accuracy", right / 40, 0.25, items, {n: n for n in items})

    before: Mapping[str, Score] = {"known": score(36), "guessed": score(12)}
    found = drops_row(before, {"known": score(30), "guessed": score(2)})
    assert found["not_measurable"] == ["guessed"] and found["average_drop"] == pytest.approx(0.15)
    assert found["worst_task"] == "known" and found["significant_drops"] == 1
    assert found["retention"]["known"] == pytest.approx((0.75 - 0.25) / (0.9 - 0.25))
    assert drops_row(before, dict(before))["average_drop"] == 0
    assert difference(before["known"], before["known"]).value == 0


def test_examples_are_what_is_scored_with_loss_on_the_answer(base: ModelRef) -> None:
    tokenizer = open_tokenizer(base.path)
    row = {"prompt": "max 3 7 2 =", "choices": toy.DIGITS, "gold": 7}
    (example,) = task_examples(toy.MAX, [toy.read(row)], tokenizer, 128)
    assert example == toy.encode(row)
    assert tokenizer.decode(example.ids[example.loss_from :]) == "7" and example.ids[0] == 1
    generated = Task("g", inline(train=[]), lambda row: row, Generate(4), (exact_match,))
    (spoken,) = task_examples(generated, [Doc("first a b =", references=("a",))], tokenizer, 128)
    assert spoken.ids[-1] == toy.VOCABULARY.index("</s>") and spoken.loss_tokens == 2
    stopped = replace(generated, ask=Generate(4, stop=(" good",)))
    (cut,) = task_examples(stopped, [Doc("first a b =", references=("a",))], tokenizer, 128)
    assert tokenizer.decode(cut.ids[cut.loss_from :]) == "a good"
    with pytest.raises(AssayError, match="longer than the model's context of 3 tokens"):
        task_examples(toy.MAX, [toy.read(row)], tokenizer, 3)


def test_text_is_replayed_in_windows_that_cover_it(base: ModelRef) -> None:
    tokenizer = open_tokenizer(base.path)
    examples = text_examples(["a b c d e f g"], tokenizer, 128, window=3)
    assert [example.ids for example in examples] == [
        tuple(toy.VOCABULARY.index(w) for w in part.split()) for part in ("<s> a b", "c d e", "f g")
    ]
    assert Perplexity.reads and all(example.loss_from == 1 for example in examples)


def test_missing_splits_and_overlap_are_refused(base: ModelRef) -> None:
    def task(**rows: Any) -> Task:
        return Task("t", inline(**rows), lambda row: Doc(row, choices=("a", "b"), gold=0), Choose(), (accuracy,), layout=Layout())

    with pytest.raises(AssayError, match="no train split, only test"):
        read_docs(task(test=["q"]), "train", ACCESS)
    trained, scored = (
        [Doc("one  two", references=("x",)), Doc("three", references=("x",))],
        [Doc("one two", id="item-7", references=("x",))],
    )
    with pytest.raises(AssayError, match=r"1 of 1 scored items of t .*'item-7'"):
        check_overlap(task(test=["q"]), trained, [(task(test=["q"]), scored)])
    assert without_overlap(trained, scored) == trained[1:]


def test_random_labels_keep_the_prompts_and_replace_the_answers() -> None:
    docs = [toy.read(row) for row in toy.rows("max", "train")]
    shuffled = random_labels(docs, 0)
    assert [doc.prompt for doc in shuffled] == [doc.prompt for doc in docs]
    assert 0.05 < sum(a.gold == b.gold for a, b in zip(docs, shuffled, strict=True)) / len(docs) < 0.15


@pytest.mark.parametrize("skill", [*toy.SKILLS, *toy.TARGETS])
def test_toy_rows_are_right_deterministic_and_apart(skill: str) -> None:
    splits = {split: list(toy.rows(skill, split)) for split in ("train", "validation", "test")}
    assert splits["test"] == list(toy.rows(skill, "test")) and len(splits["test"]) >= 100
    prompts = {split: {row["prompt"] for row in rows} for split, rows in splits.items()}
    if skill != "add":
        assert not prompts["train"] & (prompts["validation"] | prompts["test"]) and not prompts["validation"] & prompts["test"]
    assert all(word in toy.VOCABULARY for row in splits["test"] for word in (*row["prompt"].split(), *row["choices"]))
    if skill == "max":
        assert all(int(row["choices"][row["gold"]]) == max(map(int, row["prompt"].split()[1:4])) for row in splits["test"])


def test_command_line_values() -> None:
    assert share_options({"rank": 2, "layers": 1}, ("lora", "full", "last_k")) == {"lora": {"rank": 2}, "last_k": {"layers": 1}}
    assert read_budget("tokens=20k") == 20_000 and read_budget("tokens=300") == 300
    assert read_options(["rank=8", "targets=q_proj"]) == {"rank": 8, "targets": "q_proj"}
    for bad in ("20k", "tokens=many", "tokens=0", "tokens=k", "tokens=2kk"):
        with pytest.raises(AssayError, match="write it as"):
            read_budget(bad)
    assert json.dumps(read_options(["reduction=4"]))
