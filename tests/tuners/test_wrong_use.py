"""Wrong use of `assay tune` and `assay study` is refused before anything is trained; edge cases of both."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from assay import AssayError, ModelRef, read_run
from assay.harness.run.stages import encode_pairs, find_model, open_tokenizer, surroundings
from assay.tuners import commands, toy
from assay.tuners.commands.output import overlap_lines
from assay.tuners.study.design import grid
from assay.tuners.study.prepare import prepare_study
from assay.tuners.study.scoring import PipelineScorer
from assay.tuners.study.study import overlap_row, run_study
from assay.tuners.study.trial import plan_trial
from assay.tuners.training.data import task_examples
from assay.tuners.training.mitigation import parse_mitigation
from tests.tuners.test_study import ACCESS, Counter, small


def tune(option: list[str] | None = None, as_json: bool = False, **given: Any) -> int:
    """`assay tune` with these options; returns its exit code."""
    app = typer.Typer()
    app.command()(commands.tune)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    words += [f"--set={each}" for each in option or ()] + ["--json"] * as_json
    return typer.main.get_command(app).main(words, standalone_mode=False) or 0


def test_replay_without_anything_to_replay_is_a_row_and_text_beyond_what_is_measured_can_be_replayed(
    base: ModelRef, tmp_path: Path
) -> None:
    study = small(
        retain=(), methods=("lora",), seeds=(0,), rates=(1.0,), controls=False, mitigated=("lora",), mitigations=("replay=0.5", "ewc=1")
    )
    rows = run_study(study, base, ACCESS, Counter(), tmp_path / "without")
    assert [(row["mitigation"], row["status"]) for row in rows if row["role"] == "mitigation"] == [
        ("replay=0.5", "refused"),
        ("ewc=1", "refused"),
    ]
    assert {row["status"] for row in rows if row["role"] != "mitigation"} == {"done"}
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"first {a} {b} = {a}" for a in "abcdef" for b in "abcdef"))
    told = replace(study, text=str(text), text_tokens=20)
    rows = run_study(told, base, ACCESS, Counter(), tmp_path / "with")
    assert {row["status"] for row in rows} == {"done"}
    setup = prepare_study(told, base, ACCESS, Counter(), tmp_path / "with")
    assert not setup.protected and not {example.ids for example in setup.spare_text} & {example.ids for example in setup.text}
    assert len(setup.spare_text) + len(setup.text) == 36 and sum(example.loss_tokens for example in setup.text) <= 20
    steps = plan_trial(setup, next(iter(grid(told))), parse_mitigation("replay=0.5"))
    assert {example.ids for step in steps for example in step.replay} <= {example.ids for example in setup.spare_text}
    kept = prepare_study(replace(told, retain=("assay.tuners.toy:FIRST",)), base, ACCESS, Counter(), tmp_path / "kept")
    assert not kept.spare_text and kept.protected, "what a retention task gives is replayed alone"


def test_virtual_tokens_count_as_context(base: ModelRef, tmp_path: Path) -> None:
    study = small(methods=("prompt_tuning",), seeds=(0,), rates=(1.0,), controls=False, mitigations=(), shots=())
    long = replace(study, options={"prompt_tuning": {"tokens": 121}})
    (row,) = [row for row in run_study(long, base, ACCESS, Counter(), tmp_path / "long") if row["role"] == "grid"]
    assert (
        row["status"] == "refused" and "121 virtual tokens and items of up to 8 tokens exceed the model's context of 128" in row["reason"]
    )
    fits = replace(study, options={"prompt_tuning": {"tokens": 120}})
    assert {row["status"] for row in run_study(fits, base, ACCESS, Counter(), tmp_path / "fits")} == {"done"}


def test_training_rows_that_are_scored_are_left_out_by_name_and_never_replayed(base: ModelRef, tmp_path: Path) -> None:
    def rows(split: str) -> list[dict[str, Any]]:
        return [{"prompt": f"{'first' if split == 'kept' else 'max'} {a} {b} 1 =", "gold": 0} for a in "123" for b in "12345"]

    def task(name: str, **splits: Any) -> str:
        file = tmp_path / f"{name}.py"
        file.write_text(
            "from assay import Choose, Doc, Task, accuracy, inline\n"
            f"TASKS = (Task('{name}', inline(**{splits!r}), "
            "lambda row: Doc(row['prompt'], choices=('1', '2'), gold=row['gold']), Choose(), (accuracy,), split='test'),)\n"
        )
        return str(file)

    scored, other = rows("target")[:3], [{"prompt": f"max {n} 7 7 =", "gold": 0} for n in "123456789"]
    target = task("learned", train=rows("target"), validation=other[:2], test=scored)
    retained = task("kept", train=[*rows("kept"), *scored], test=[{"prompt": "first a b =", "gold": 0}])
    study = small(targets=(target,), retain=(retained,), held=2)
    silent: Any = lambda *rest, **more: {}  # noqa: E731
    setup = prepare_study(study, base, ACCESS, silent, tmp_path)
    assert setup.excluded == {target: tuple(row["prompt"] for row in scored)} and len(setup.training[target]) == 12
    assert overlap_row(setup, target) == {"overlap_dropped": 3, "overlap_items": [row["prompt"] for row in scored]}
    words = {toy.VOCABULARY[example.ids[1]] for example in (*setup.protected, *setup.probes)}
    assert words == {"first"}, "what the target scores is not replayed"
    assert overlap_lines([{"target": target, **overlap_row(setup, target)}])[0].startswith(f"{target}: 3 training rows excluded")
    crossing = task("crossing", train=other, test=[{"prompt": "max 1 1 1 =", "gold": 0}])
    both = task("both", train=rows("kept"), test=other[4:])
    with pytest.raises(AssayError, match=r"5 of 5 scored items of both are among the training rows: 'max 5 7 7 ='; ") as caught:
        prepare_study(replace(study, targets=(crossing,), retain=(both,)), base, ACCESS, silent, tmp_path)
    assert "--drop-overlap" not in str(caught.value)


def test_training_sees_the_chat_template_as_scoring_sends_it(base: ModelRef, tmp_path: Path) -> None:
    folder = tmp_path / "chatty"
    shutil.copytree(base.path, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for each in messages %}<s> {{ each.content }} {% endfor %}{% if add_generation_prompt %}good {% endif %}"
    )
    chatty = find_model(str(folder), cache=tmp_path, offline=True)
    study = small(methods=("lora",), seeds=(0,), rates=(1.0,), controls=False, mitigations=(), shots=(), limit=5, chat=True)
    place = surroundings({"ASSAY_RESULTS": str(tmp_path / "results"), "ASSAY_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    rows = run_study(study, chatty, place.access(), PipelineScorer(place, limit=5, chat=study.chat), tmp_path / "study")
    assert {row["status"] for row in rows} == {"done"}
    tokenizer, every = open_tokenizer(folder), [toy.read(row) for row in toy.rows("max", "test")]
    (run,) = {row["run_id"] for row in rows if row["role"] == "base"}
    bundle = read_run(place.results / "runs" / run)
    assert bundle.manifest["plan"]["chat"] is True
    prompts = [item.prompt for item in bundle.items() if item.task == "toy/max"]
    docs = [next(doc for doc in every if str(doc.prompt) in prompt) for prompt in prompts]
    assert len(docs) == 5
    examples = task_examples(toy.MAX, docs, tokenizer, 128, chat=True)
    scored = encode_pairs(tokenizer, [(prompt, (doc.answer,)) for prompt, doc in zip(prompts, docs, strict=True)], special=True)
    assert [example.ids for example in examples] == [cut.context + cut.continuations[0] for cut in scored]
    setup = prepare_study(study, chatty, place.access(), Counter(), tmp_path / "study")
    trained = {example.ids for step in plan_trial(setup, grid(study)[0], parse_mitigation("none")) for example in step.target}
    good = toy.VOCABULARY.index("good")
    assert all(ids[0] == 1 and ids[-2] == good and len(ids) == 8 for ids in trained)
    assert all(ids.ids[-2] == good for ids in (*setup.protected, *setup.probes, *setup.validation["assay.tuners.toy:MAX"]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss_tokens": 0}, "loss_tokens cannot be 0"),
        ({"seeds": ()}, "no seed"),
        ({"rates": (1.0, -1.0)}, "rates cannot be -1. use numbers above 0"),
        ({"rates": (float("nan"),)}, "rates cannot be nan"),
        ({"retain": ("assay.tuners.toy:MAX",)}, "assay.tuners.toy:MAX is both a target and a retention task"),
        ({"retain": ("assay.tuners.toy:ADD", "assay.tuners.toy:ADD")}, "task assay.tuners.toy:ADD is listed 2 times"),
        ({"methods": ("lora", "lora")}, "method lora is listed 2 times"),
        ({"mitigations": ("kl=1", "lk=1")}, "unknown mitigation"),
        ({"micro": 0}, "micro cannot be 0"),
        ({"limit": 0}, "limit cannot be 0"),
    ],
)
def test_contradictory_or_empty_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(AssayError, match=says):
        small(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": "abc"}, "--lr: cannot read 'abc'"),
        ({"lr": "-1"}, "--lr: cannot read '-1'"),
        ({"lr": "inf"}, "--lr: cannot read 'inf'"),
        ({"lr": "0"}, "a learning rate of 0 trains nothing"),
        ({"lr": "1", "method": "lora,full"}, "applies to a single method"),
        ({"shots": "x"}, "--shots: cannot read 'x'"),
        ({"method": "in_context", "lr": "1"}, "in_context: trains nothing"),
        ({"method": "in_context"}, "in_context: trains nothing"),
        ({"method": "lorra"}, "did you mean lora"),
        ({"method": "lora,lora"}, "method lora is listed 2 times"),
        ({"method": "last-k,last_k"}, "last-k and last_k are the same method"),
        ({"seeds": 0}, "no seed"),
        ({"budget": "tokens=0"}, "cannot read the budget"),
        ({"option": ["rank=abc"]}, "lora: rank='abc' is not a whole number"),
        ({"option": ["rnak=4"]}, "--set: unknown option rnak. lora has rank, alpha"),
        ({"method": "last_k", "option": ["layers=x"]}, "last_k: layers='x' is not a whole number"),
        ({"text": "empty.txt"}, "empty.txt: no text found"),
        ({"text": "binary.txt"}, "cannot be read as text"),
        ({"retain": "assay.tuners.toy:MAX"}, "is both a target and a retention task"),
        ({"regime": "sequential"}, "at least two tasks"),
        (
            {"regime": "sequential", "task": "assay.tuners.toy:MAX,assay.tuners.toy:ADD", "mitigation": "multi_task=1"},
            "one after another",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_one_clear_line(
    base: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSAY_RESULTS", str(tmp_path / "results"))
    with pytest.raises(AssayError) as caught:
        tune(**({"model": str(base.path), "task": "assay.tuners.toy:MAX", "limit": 2, "shots": ""} | changes))
    assert says in str(caught.value) and "\n" not in str(caught.value) and caught.value.do


def test_each_method_has_its_own_folder_and_the_same_command_resumes_in_it(
    base: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSAY_RESULTS", str(tmp_path))
    common: dict[str, Any] = {
        "model": str(base.path),
        "task": "assay.tuners.toy:MAX",
        "budget": "tokens=16",
        "limit": 4,
        "shots": "",
        "as_json": True,
    }
    for method in ("last_k", "layernorm", "last_k"):
        tune(**common, method=method, option=["layers=1"] if method == "last_k" else None)
        assert json.loads(capsys.readouterr().out)["rows"][-1]["status"] == "done"
    folders = sorted((tmp_path / "tuned").iterdir())
    assert len(folders) == 2 and ["last_k" in folders[0].name, "layernorm" in folders[1].name] == [True, True]
    assert all(len(list(folder.glob("trials/*/row.json"))) == 2 for folder in folders)
    assert tune(**common, method="last_k", option=["layers=9"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["rows"][-1]["status"] == "refused"
    assert "refused: last_k: last_k: cannot train the last 9 of 2 layers. use 1 to 2" in output.err


def test_memory_can_be_saved_without_changing_the_result(base: ModelRef, tmp_path: Path) -> None:
    study = small(methods=("lora", "prefix_tuning"), seeds=(0,), rates=(10.0,), controls=False, mitigations=(), shots=())
    plain = run_study(study, base, ACCESS, Counter(), tmp_path / "plain")
    less = run_study(replace(study, micro=2, gradient_checkpointing=True), base, ACCESS, Counter(), tmp_path / "less")
    losses = [{row["method"]: row.get("final_loss") for row in rows} for rows in (plain, less)]
    assert losses[1]["lora"] == pytest.approx(losses[0]["lora"], abs=1e-4) and losses[0]["prefix_tuning"] is not None
    assert [row["reason"] for row in less if row["status"] == "refused"] == [
        "prefix tuning needs a key-value cache, which gradient checkpointing drops. remove --gradient-checkpointing"
    ]
