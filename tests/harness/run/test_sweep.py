"""Several checkpoints, shot counts and protocols in one engine; watching; repeating. Run: pytest tests/harness/run/test_sweep.py"""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import make_model, place, save_lora, write_task

from assay import AssayError, Plan, read_run
from assay.harness.checking.rerun import reproduction, rerun
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, hashed
from assay.harness.model.find import ModelRef
from assay.harness.run.evaluate import evaluate
from assay.harness.run.merge import merge
from assay.harness.run.sweep import EngineReuse, expand_models, plans_of, sweep
from assay.harness.run.watch import Listener, watch_folder
from assay.harness.store import query

Made = list[Scripted]


def counting(made: Made, seed: int = 3) -> object:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        made.append(Scripted(hashed(seed)))
        return made[-1]

    return opener


def plan_of(folder: Path) -> Plan:
    return Plan(model=str(folder / "step-1"), tasks=(str(write_task(folder, 10)),), engine="scripted")


def test_models_by_commas_and_patterns_in_natural_order(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        make_model(tmp_path / f"step-{step}", seed=step)
    found = expand_models(f"builtin:smollm2-135m,{tmp_path}/step-*")
    assert [name.rpartition("/")[2] for name in found] == ["builtin:smollm2-135m", "step-1", "step-2", "step-10"]
    with pytest.raises(AssayError, match="no folder matches"):
        expand_models(str(tmp_path / "none-*"))


def test_checkpoints_share_one_engine_and_others_do_not(tmp_path: Path) -> None:
    made: Made = []
    for step in (1, 2, 3):
        make_model(tmp_path / f"step-{step}", seed=step)
    make_model(tmp_path / "wide", positions=256)
    models = [str(tmp_path / name) for name in ("step-1", "step-2", "step-3", "wide")]
    bundles = sweep(plans_of(plan_of(tmp_path), models, [None], ()), place(tmp_path), opener=counting(made))  # type: ignore[arg-type]
    assert len(bundles) == 4 and len(made) == 2
    assert [path.name for path in made[0].swapped] == ["step-2", "step-3"]
    assert len({read_run(bundle).manifest["model"]["digest"] for bundle in bundles}) == 4


def test_shot_counts_and_protocols_are_runs_of_their_own(tmp_path: Path) -> None:
    plans = plans_of(Plan(model="", tasks=("glue/rte",)), ["m"], [0, 4], ["lm-eval", "helm"])
    assert [(plan.tasks[0], plan.shots) for plan in plans] == [
        ("glue/rte@lm-eval", 0),
        ("glue/rte@lm-eval", 4),
        ("glue/rte@helm", 0),
        ("glue/rte@helm", 4),
    ]


def test_each_adapter_is_a_run_of_its_own() -> None:
    plans = plans_of(Plan(model="", tasks=("glue/rte",)), ["m"], [0], (), ["one", "two"])
    assert [(plan.model, plan.adapter) for plan in plans] == [("m", "one"), ("m", "two")]
    assert [plan.adapter for plan in plans_of(Plan(model="", tasks=("glue/rte",)), ["m"], [0], ())] == [""]


def test_checkpoints_of_a_training_are_one_curve_in_the_store(tmp_path: Path) -> None:
    for name in ("step-1", "step-2", "step-10", "final"):
        make_model(tmp_path / name, seed=len(name))
    here, models = place(tmp_path), [str(tmp_path / name) for name in ("step-2", "step-10", "step-1", "final", "step-2")]
    bundles = sweep(plans_of(plan_of(tmp_path), models, [None], ()), here, opener=counting([]))  # type: ignore[arg-type]
    found = query(here.results, "SELECT training, step, run_id FROM curves ORDER BY step")
    assert [row[:2] for row in found] == [(str(tmp_path / "step"), step) for step in (1, 2, 10)]
    assert found[1][2] == bundles[-1].name, "the latest run of a checkpoint"


def test_an_engine_does_not_swap_for_the_same_weights(tmp_path: Path) -> None:
    made: Made = []
    make_model(tmp_path / "step-1")
    engines = EngineReuse(counting(made))  # type: ignore[arg-type]
    for _ in range(2):
        evaluate(plan_of(tmp_path), place(tmp_path), opener=engines)
    engines.close()
    assert len(made) == 1 and made[0].swapped == []


def test_watching_scores_each_whole_checkpoint_once(tmp_path: Path) -> None:
    made: Made = []
    training, plan = tmp_path / "training", plan_of(tmp_path)
    training.mkdir()
    source = make_model(tmp_path / "step-1")
    (training / "step-2").mkdir()
    shutil.copy(source / "config.json", training / "step-2")  # still being written

    def train() -> None:
        for name in ("step-9", "step-10"):
            shutil.copytree(source, training / f".{name}")
            (training / f".{name}").rename(training / name)
        shutil.copytree(source, training / "step-2", dirs_exist_ok=True)

    scored: list[str] = []
    writer = threading.Timer(0.2, train)
    writer.start()
    count = watch_folder(
        training,
        plan,
        place(tmp_path),
        Listener(lambda path, bundle: scored.append(path.name)),
        pause=0.05,
        until=3,
        opener=counting(made),  # type: ignore[arg-type]
    )
    writer.join()
    assert count == 3 and sorted(scored) == ["step-10", "step-2", "step-9"] and len(made) == 1


def watched(training: Path, plan: Plan, until: int, **options: object) -> tuple[list[str], dict[str, str]]:
    """Names of the scored checkpoints, and the reason of each that was skipped. Fails if one is reported twice."""
    scored: list[str] = []
    skipped: dict[str, str] = {}

    def skip(path: Path, reason: str) -> None:
        assert path.name not in skipped
        skipped[path.name] = reason

    def score(path: Path, bundle: Path) -> None:
        scored.append(path.name)

    options = {"opener": counting([]), "pause": 0.02, **options}
    watch_folder(training, plan, place(training.parent), Listener(score, skip), until=until, **options)  # type: ignore[arg-type]
    return scored, skipped


def test_watching_reports_each_folder_that_it_cannot_score_once_and_goes_on(tmp_path: Path) -> None:
    training, plan = tmp_path / "training", replace(plan_of(tmp_path), model="")
    for name in ("checkpoint-1", "checkpoint-2", "checkpoint-4", "tmp-checkpoint-9", "checkpoint-9.tmp"):
        make_model(training / name)
    (training / "checkpoint-2" / "tokenizer.json").unlink()
    (training / "checkpoint-4" / "config.json").write_text("{")
    (training / "checkpoint-3" / "pytorch_model_fsdp_0").mkdir(parents=True)
    (training / "checkpoint-3" / "pytorch_model_fsdp_0" / "__0_0.distcp").write_bytes(b"x")
    save_lora(training / "checkpoint-5")
    (training / "logs").mkdir()
    (training / "logs" / "events").write_text("x")
    for path in training.rglob("*"):
        os.utime(path, (1, 1))  # finished long ago
    threading.Timer(0.4, lambda: shutil.copytree(training / "checkpoint-1", training / "checkpoint-6")).start()
    scored, skipped = watched(training, plan, until=2)
    assert scored == ["checkpoint-1", "checkpoint-6"]
    assert sorted(skipped) == ["checkpoint-2", "checkpoint-3", "checkpoint-4", "checkpoint-5", "logs"]
    assert "no tokenizer" in skipped["checkpoint-2"] and "FSDP" in skipped["checkpoint-3"]
    assert "assay watch --base MODEL" in skipped["checkpoint-5"] and "config.json is missing" in skipped["logs"]


def test_watching_scores_adapters_on_their_base(tmp_path: Path) -> None:
    training, base = tmp_path / "training", make_model(tmp_path / "base")
    save_lora(training / "checkpoint-1")
    save_lora(training / "checkpoint-2")
    scored, skipped = watched(training, replace(plan_of(tmp_path), model=str(base)), until=2)
    assert scored == ["checkpoint-1", "checkpoint-2"] and skipped == {}
    found = query(place(tmp_path).results, "SELECT model FROM runs ORDER BY model")
    assert [row[0] for row in found] == [f"{base}+{training / name}" for name in scored]
    with pytest.raises(AssayError, match="no such model folder"):
        watched(training, replace(plan_of(tmp_path), model=str(tmp_path / "nowhere")), until=1)


def test_watching_goes_on_after_a_checkpoint_that_fails_and_one_that_is_deleted(tmp_path: Path) -> None:
    training, plan = tmp_path / "training", replace(plan_of(tmp_path), model="")
    for step in (1, 2, 3):
        make_model(training / f"checkpoint-{step}", seed=step)

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        if ref.path.name == "checkpoint-1":
            raise AssayError("the model cannot be loaded", do="save it again")
        if ref.path.name == "checkpoint-2":
            shutil.rmtree(ref.path)
        return Scripted(hashed(3))

    scored, skipped = watched(training, plan, until=1, opener=opener)
    assert scored == ["checkpoint-3"]
    assert "cannot be loaded" in skipped["checkpoint-1"] and skipped["checkpoint-2"] == "deleted while it was scored"
    with pytest.raises(AssayError, match="unknown task"):
        watched(training, replace(plan, tasks=("no_such_task",)), until=1)


def test_whatever_decides_an_answer_beside_the_weights_opens_a_new_engine(tmp_path: Path) -> None:
    made: Made = []
    for step in range(1, 6):
        make_model(tmp_path / f"step-{step}", seed=step)
    (tmp_path / "step-3" / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5], "transformers_version": "5"}))
    (tmp_path / "step-4" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    models = [str(tmp_path / f"step-{step}") for step in (1, 2, 3, 4, 5)]
    sweep(plans_of(plan_of(tmp_path), models, [None], ()), place(tmp_path), opener=counting(made))  # type: ignore[arg-type]
    assert [[path.name for path in each.swapped] for each in made] == [["step-2"], [], [], []]


def test_a_sweep_goes_on_with_a_new_engine_where_weights_do_not_fit(tmp_path: Path) -> None:
    class Stubborn(Scripted):
        def swap(self, weights: Path) -> None:
            raise AssayError("the tensor names differ", do="open a new engine for it")

    made: list[Scripted] = []

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        made.append(Stubborn(hashed(3)))
        return made[-1]

    for step in (1, 2):
        make_model(tmp_path / f"step-{step}", seed=step)
    models = [str(tmp_path / f"step-{step}") for step in (1, 2)]
    assert len(sweep(plans_of(plan_of(tmp_path), models, [None], ()), place(tmp_path), opener=opener)) == 2 and len(made) == 2


def test_a_run_repeats_itself_and_a_change_is_named(tmp_path: Path) -> None:
    make_model(tmp_path / "step-1")
    bundle = evaluate(plan_of(tmp_path), place(tmp_path), opener=counting([]))  # type: ignore[arg-type]
    same = rerun(bundle, place(tmp_path), opener=counting([]))  # type: ignore[arg-type]
    assert same.items == 10 and same.changed == () and same.drift == 0.0 and same.reproduced
    other = rerun(bundle, place(tmp_path), opener=counting([], seed=4))  # type: ignore[arg-type]
    assert other.changed and other.drift > 0 and 0 < other.churn <= 1
    assert not other.reproduced and len(other.moved) == 10 and other.prompts == ()


def test_a_rerun_with_other_prompts_is_not_a_reproduction(tmp_path: Path) -> None:
    model, plan = make_model(tmp_path / "step-1"), replace(plan_of(tmp_path), chat=True)
    template = model / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %} ")
    bundle = evaluate(plan, place(tmp_path), opener=counting([]))  # type: ignore[arg-type]
    assert rerun(bundle, place(tmp_path), opener=counting([])).reproduced  # type: ignore[arg-type]
    stored = read_run(bundle)
    template.write_text("Q: {% for m in messages %}{{ m['content'] }}{% endfor %} ")
    other = read_run(evaluate(plan, place(tmp_path), opener=counting([])))  # type: ignore[arg-type]
    found = reproduction(stored, other)
    assert len(found.prompts) == 10 and not found.reproduced


def test_parts_merge_into_the_run_of_a_single_process(tmp_path: Path) -> None:
    make_model(tmp_path / "step-1")
    plan, here = plan_of(tmp_path), place(tmp_path)
    whole = read_run(evaluate(plan, place(tmp_path / "whole"), opener=counting([])))  # type: ignore[arg-type]
    parts = [evaluate(replace(plan, shard=f"{n}/3"), here, opener=counting([])) for n in (3, 1, 2)]  # type: ignore[arg-type]
    with pytest.raises(AssayError, match=r"not the 3 shards.*missing: 1/3"):
        merge(parts[:1] + parts[2:], here)
    with pytest.raises(AssayError, match="not the 3 shards"):
        merge([*parts, parts[0]], here)
    merged = read_run(merge(parts, here))
    assert merged.summary()["results"] == whole.summary()["results"]
    assert merged.items() == whole.items()
    assert [(r.item, r.output) for r in merged.records()] == [(r.item, r.output) for r in whole.records()]
    assert read_run(parts[0]).summary()["results"] == []
    for runs in ([whole.path], [*parts, whole.path]):
        with pytest.raises(AssayError, match="is a whole run, not a shard"):
            merge(runs, here)
    with pytest.raises(AssayError, match="is invalid"):
        replace(plan, shard="4/3")


def test_a_merge_that_fails_leaves_no_run_behind(tmp_path: Path) -> None:
    make_model(tmp_path / "step-1")
    plan, here = plan_of(tmp_path), place(tmp_path)
    parts = [evaluate(replace(plan, shard=f"{n}/2"), here, opener=counting([])) for n in (1, 2)]  # type: ignore[arg-type]
    before = sorted((here.results / "runs").iterdir())
    moved = Path(plan.tasks[0]).rename(tmp_path / "elsewhere")
    with pytest.raises(AssayError):
        merge(parts, here)
    assert sorted((here.results / "runs").iterdir()) == before
    moved.rename(plan.tasks[0])
    assert read_run(merge(parts, here)).status == "complete"
