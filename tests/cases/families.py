"""The cases that every benchmark family and every engine must hold, as functions of a Subject. A test module parametrises over CASES and
FAMILIES for its engines: tests/cases/test_families.py, tests/contracts/test_vllm_cases.py.

The rows are those of the smoke tasks: written by us, in each family's own schema and under its own prompt.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cases.common import file_of, results
from fakes import place

from assay import Access, AssayError, Doc, Generate, Plan, Run, Shots, Task, evaluate, exact_match, inline, read_run
from assay.harness.engines import Engine, Settings
from assay.harness.engines.opening import open_engine
from assay.harness.engines.request import ScoreGroup
from assay.harness.engines.scripted import Scripted, oracle
from assay.harness.model.find import ModelRef
from assay.harness.reports.results import notes
from assay.harness.run.evaluate import OpenEngine
from assay.tasks.smoke import TASKS

FAMILIES = {
    "glue": "smoke/glue/sst2",
    "superglue": "smoke/superglue/boolq",
    "mmlu": "smoke/mmlu",
    "bigbench": "smoke/bigbench/bigbench_emoji",
    "helm": "smoke/helm/openbookqa",
}
SAID = "B"
"""What the tiny model answers to every prompt that ends in a colon, after a space."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine and its model. `address`: of the server, where a server has the model."""

    engine: str
    model: Path
    opener: OpenEngine
    address: str = ""

    def run(self, folder: Path, *tasks: str, **options: Any) -> Run:
        plan = Plan(self.address or str(self.model), tasks, engine=self.engine, device="auto" if self.address else "cpu", **options)
        return read_run(evaluate(plan, place(folder), opener=self.opener))


class Kept:
    """An engine that stays open when a run closes it, for the next run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def close(self) -> None: ...


def keeping(opened: dict[str, Engine]) -> OpenEngine:
    """Opens each engine once per model; whoever owns `opened` closes them."""

    def opener(name: str, ref: ModelRef, settings: Settings) -> Any:
        key = f"{name} {ref.digest} {settings.plain}"
        if key not in opened:
            opened[key] = open_engine(name, ref, settings)
        return Kept(opened[key])

    return opener


def scripted(name: str, ref: ModelRef, settings: Settings) -> Engine:
    return Scripted(oracle(lambda request: 0 if isinstance(request, ScoreGroup) else f" {SAID}"))


def make_answering_model(folder: Path, nan_at: str = "", positions: int = 1024, flat: bool = False) -> Path:
    """A Llama over bytes whose next token depends only on the last one: a space after a colon, SAID after a space, then the end.

    `nan_at`: finite weights whose logits are NaN where this character is the last one. `flat`: all tokens are equally likely.
    """
    import numpy as np
    from fakes import make_model
    from safetensors.numpy import save_file

    make_model(folder)
    ids = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    size, width, inner = len(ids), 320, 64  # one dimension for each token; 5 heads of 64, which every engine computes
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": 5, "num_key_value_heads": 5}
    config |= {"max_position_embeddings": positions, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    head = np.random.default_rng(0).normal(0, 0.02, (size, width)) * (not flat)
    for last, following in {":": "Ġ", "Ġ": SAID, SAID: "<eos>"}.items():
        head[ids[following], ids[last]] += 0 if flat else 0.5  # one-hot rows have the size 17.9 after the norm: 8.9 nats
    gate, up = np.zeros((inner, width)), np.zeros((inner, width))
    if nan_at:
        gate[0, ids[nan_at]] = up[0, ids[nan_at]] = 1e20  # their product overflows, and the sum over it is NaN
    zeros = np.zeros((width, width))
    weights = {
        "model.embed_tokens.weight": np.eye(size, width),
        "model.norm.weight": np.ones(width),
        "model.layers.0.input_layernorm.weight": np.ones(width),
        "model.layers.0.post_attention_layernorm.weight": np.ones(width),
        **{f"model.layers.0.self_attn.{part}_proj.weight": zeros for part in "qkvo"},
        "model.layers.0.mlp.gate_proj.weight": gate,
        "model.layers.0.mlp.up_proj.weight": up,
        "model.layers.0.mlp.down_proj.weight": np.zeros((width, inner)),
        "lm_head.weight": head,
    }
    save_file({name: value.astype(np.float32) for name, value in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def task_of(family: str) -> Task:
    """The family's task without few-shot examples. It counts as a benchmark here, so that nothing but the case marks its scores."""
    (task,) = (task for task in TASKS if task.name == FAMILIES[family])
    return replace(task, name=family, shots=replace(task.shots, count=0), purpose="release")


def docs_of(task: Task) -> list[Doc]:
    return [task.doc(row) for row in task.rows.load(task.split, Access()).rows]


def over(task: Task, docs: list[Doc], **changes: Any) -> Task:
    """The same task over these Docs."""
    rows = inline(**{task.split: [{"n": n} for n in range(len(docs))]})
    return replace(task, rows=rows, doc=lambda row: docs[row["n"]], **changes)


def gold(doc: Doc) -> str:
    return doc.choices[place_of(doc)] if doc.choices else doc.references[0]


def place_of(doc: Doc) -> int:
    """The place of the right choice."""
    return doc.targets.index(max(doc.targets)) if doc.targets else doc.gold or 0


def label(doc: Doc) -> str:
    return str(place_of(doc)) if doc.choices else gold(doc)


def written(folder: Path, family: str, case: str) -> str:
    """The file of one family's task for one case, a function of this module."""
    return file_of(folder, f"from cases.families import {case}\nTASKS = ({case}('{family}'),)\n", case)


def expected(run: Run, task: Task) -> float:
    """The task's score, counted here from the stored picks and texts."""
    items = {item.id: item for item in run.items() if item.task == task.full_name}
    right = []
    for record in run.records():
        if record.task == task.full_name and record.status != "skipped":
            item = items[record.item]
            found = item.choices[record.output["pick"]] if item.choices else record.output["text"].strip()
            right.append(found == item.gold)
    return sum(right) / len(right)


def score_of(run: Run, task: Task) -> dict[str, Any]:
    return results(run)[task.full_name, task.metrics[0].name]


def rated(family: str) -> Task:
    """Pearson's correlation with answers that are all the same: undefined."""
    from assay import Regress
    from assay.harness.metrics.regression import pearson

    docs = [Doc(f"Rate item {n}:", value=float(n % 5)) for n in range(10)]
    return over(Task("rated", inline(), lambda row: row, Regress(("1", "2"), (1.0, 2.0)), (pearson,), split="test"), docs)


def in_order(family: str) -> Task:
    """Sixty items, sorted by their labels."""
    task = task_of(family)
    docs = docs_of(task)
    many = [
        replace(doc, prompt=f"({n}) {doc.prompt}", id=f"{n}", group="", cluster="") for n, doc in enumerate(docs * (60 // len(docs) + 1))
    ][:60]
    return over(task, sorted(many, key=label))


def own_shots(family: str) -> Task:
    """The scored split's own first rows as few-shot examples."""
    task = task_of(family)
    return replace(task, shots=Shots(2, task.split, "first"))


def one_too_long(family: str) -> Task:
    task = task_of(family)
    docs = docs_of(task)
    return over(task, [*docs[:3], replace(docs[3], prompt="word " * 300 + docs[3].prompt), *docs[4:]])


def answered(family: str) -> Task:
    """The family's prompts and layout, where the right answer is what the tiny model says."""
    task = task_of(family)
    docs = [Doc(prompt=doc.prompt, references=(SAID,)) for doc in docs_of(task)]
    layout = replace(task.layout, trim=family == "bigbench")
    return over(task, docs, ask=Generate(8), metrics=(exact_match,), layout=layout)


def an_undefined_score_stays_in_its_cell(subject: Subject, family: str, folder: Path) -> None:
    task = in_order(family)
    run = subject.run(folder, written(folder, family, "rated"), written(folder, family, "in_order"))
    found = results(run)
    assert run.status == "complete"
    assert found["rated", "pearson"]["value"] is None and found["rated", "pearson"]["reason"] and found["rated", "pearson"]["low"] is None
    assert score_of(run, task)["value"] == pytest.approx(expected(run, task)) and score_of(run, task)["n"] == 60


def indices_are_no_texts(subject: Subject, family: str, folder: Path) -> None:
    docs = [doc for doc in docs_of(task_of(family)) if len({"A", *doc.choices}) > 2] or lettered(family)
    rows = [(doc.prompt, list(doc.choices), doc.choices.index(gold(doc))) for doc in docs]
    size = len(rows[0][1])
    numbers = [str(n + 1) for n in range(size - 1)] + ["0"]
    rows += [(f"Which number is {numbers[n]}?", numbers, n) for n in range(size)]
    with (folder / "sheet.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerows([("prompt", "choices", "answer_index"), *((prompt, "|".join(choices), right) for prompt, choices, right in rows)])
    lines = [json.dumps({"prompt": prompt, "choices": choices, "answer_index": right}) for prompt, choices, right in rows]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    run = subject.run(folder, str(folder / "sheet.csv"), str(folder / "lines.jsonl"))
    wanted = [choices[right] for _, choices, right in rows]
    assert [item.gold for item in run.items()] == wanted * 2
    one, other = (results(run)[name, "accuracy"]["value"] for name in ("sheet", "lines"))
    picks = [record.output["pick"] for record in run.records() if record.task == "sheet"]
    ties = any(record.output.get("tied") for record in run.records())
    right = sum(pick == row[2] for pick, row in zip(picks, rows, strict=True)) / len(rows)
    assert one == other and (ties or one == pytest.approx(right))


def lettered(family: str) -> list[Doc]:
    """Docs of a task that generates a letter, as choices between the letters."""
    letters = ("A", "B", "C", "D")
    return [replace(doc, choices=letters, gold=letters.index(gold(doc)), references=()) for doc in docs_of(task_of(family))]


def no_item_is_its_own_example(subject: Subject, family: str, folder: Path) -> None:
    task = own_shots(family)
    own = {doc.prompt for doc in docs_of(task)}
    run = subject.run(folder, written(folder, family, "own_shots"))
    assert run.status == "complete" and len(run.items()) == len(own)
    for item in run.items():
        (mine,) = (prompt for prompt in own if item.prompt.rstrip(" ").endswith(prompt.rstrip(" ")))
        assert len(item.shots) == 2 and item.id not in item.shots and item.prompt.count(mine.strip()) == 1
    told = notes(run.manifest, run.summary()["results"])
    assert any("2 items have other few-shot examples than the protocol's" in note for note in told)


def a_limit_is_a_sample(subject: Subject, family: str, folder: Path) -> None:
    task, path = in_order(family), written(folder, family, "in_order")
    labels = {doc.id: label(doc) for doc in docs_of(task)}
    run = subject.run(folder, path, limit=20)
    found = Counter(labels[item.id] for item in run.items())
    assert all(found[each] == pytest.approx(count / 3, abs=1) for each, count in Counter(labels.values()).items()), (
        "labels keep their shares"
    )
    alone = Subject("scripted", subject.model, scripted).run(folder, path, limit=20)
    assert [item.id for item in run.items()] == [item.id for item in alone.items()], "the same items for every engine"
    assert score_of(run, task)["value"] == pytest.approx(expected(run, task))


def one_long_item_blocks_nothing(subject: Subject, family: str, folder: Path) -> None:
    task, path = one_too_long(family), written(folder, family, "one_too_long")
    count = len(docs_of(task))
    with pytest.raises(AssayError, match=f"1 of {count} prompts"):
        subject.run(folder, path)
    assert not list((folder / "results").glob("runs/*")), "refused before anything runs"
    for rule, scored in (("skip", count - 1), ("truncate-left", count)):
        run = subject.run(folder, path, overlong=rule)
        found = score_of(run, task)
        assert run.status == "complete" and found["n"] == scored and found["evidence"] == "overlong"
        assert found["value"] == pytest.approx(expected(run, task))
        assert run.manifest["tasks"][0]["overlong"] == {"rule": rule, "items": 1}


def a_space_before_the_answer_does_not_count(subject: Subject, family: str, folder: Path) -> None:
    run = subject.run(folder, written(folder, family, "answered"))
    assert {record.output["text"].strip() for record in run.records()} == {SAID}, "the model answers"
    assert score_of(run, answered(family))["value"] == 1.0


Case = Callable[[Subject, str, Path], None]
CASES: dict[str, Case] = {
    "1": an_undefined_score_stays_in_its_cell,
    "2": indices_are_no_texts,
    "3": no_item_is_its_own_example,
    "4": a_limit_is_a_sample,
    "5": one_long_item_blocks_nothing,
    "10": a_space_before_the_answer_does_not_count,
}
"""By the number of the kind of fault in results/checks/CASES.md's table of families and engines."""
