"""Predictions for hidden test sets in the submission formats of GLUE and SuperGLUE: one file per task.

    assay run --model M --tasks glue --split test
    assay store export RUN --format glue-submission --to out/

Sources: gluebenchmark.com/faq and super.gluebenchmark.com/faq; jiant's submission writers. MISSING.txt lists required files
that the run has no predictions for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import AssayError, Run

ENTAILS = ("entailment", "not_entailment")
THREE = ("entailment", "neutral", "contradiction")
NUMBERS = (0, 1)
WORDS = ("false", "true")
Label = int | str | float


@dataclass(frozen=True, slots=True)
class SubmissionFile:
    """A file of a submission: its name and the label of each choice (empty if the answer is a number or a text)."""

    file: str
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One item of the test set: its id, its metadata and the model's output (a choice or a number)."""

    id: str
    meta: Mapping[str, Any]
    output: Mapping[str, Any]


GLUE: Mapping[str, SubmissionFile] = {
    "cola": SubmissionFile("CoLA.tsv", NUMBERS),
    "sst2": SubmissionFile("SST-2.tsv", NUMBERS),
    "mrpc": SubmissionFile("MRPC.tsv", NUMBERS),
    "stsb": SubmissionFile("STS-B.tsv"),
    "qqp": SubmissionFile("QQP.tsv", NUMBERS),
    "mnli": SubmissionFile("MNLI-m.tsv", THREE),
    "mnli_mismatched": SubmissionFile("MNLI-mm.tsv", THREE),
    "qnli": SubmissionFile("QNLI.tsv", ENTAILS),
    "rte": SubmissionFile("RTE.tsv", ENTAILS),
    "wnli": SubmissionFile("WNLI.tsv", NUMBERS),
    "ax": SubmissionFile("AX.tsv", THREE),
}
SUPERGLUE: Mapping[str, SubmissionFile] = {
    "boolq": SubmissionFile("BoolQ.jsonl", WORDS),
    "cb": SubmissionFile("CB.jsonl", ("entailment", "contradiction", "neutral")),
    "copa": SubmissionFile("COPA.jsonl", NUMBERS),
    "multirc": SubmissionFile("MultiRC.jsonl", NUMBERS),
    "record": SubmissionFile("ReCoRD.jsonl"),
    "rte": SubmissionFile("RTE.jsonl", ENTAILS),
    "wic": SubmissionFile("WiC.jsonl", WORDS),
    "wsc": SubmissionFile("WSC.jsonl", ("False", "True")),
    "axb": SubmissionFile("AX-b.jsonl", ENTAILS),
    "axg": SubmissionFile("AX-g.jsonl", ENTAILS),
}


def predictions(run: Run, family: str, specs: Mapping[str, SubmissionFile]) -> dict[str, list[Prediction]]:
    """The run's predictions by task. Raises AssayError unless the run has whole test splits of at least one of these tasks."""
    facts = {str(task["name"]).partition("@")[0]: task for task in run.manifest["tasks"]}
    chosen = {name: facts[f"{family}/{name}"] for name in specs if f"{family}/{name}" in facts}
    if not chosen:
        raise AssayError(f"has no task of {family}", where=run.id, do=f"assay run --tasks {family} --split test")
    for task in chosen.values():
        if task["split"] != "test" or task["evidence"] != "complete":
            state = f"was run on {task['split']!r} ({task['evidence']})"
            raise AssayError(
                f"{task['name']} {state}", where=run.id, do=f"score the whole test split: assay run --tasks {family} --split test"
            )
    full = {str(task["name"]): name for name, task in chosen.items()}
    metas = {(item.task, item.id): item.doc.get("meta", {}) for item in run.items()}
    found: dict[str, list[Prediction]] = {name: [] for name in chosen}
    for record in run.records():
        if record.task in full:
            found[full[record.task]].append(Prediction(record.item, metas[record.task, record.item], record.output))
    return found


def in_order(items: Sequence[Prediction], file: str) -> list[tuple[int, Prediction]]:
    """Predictions sorted by test-set number. Raises AssayError if a number is missing."""
    numbered = sorted(((int(item.id), item) for item in items), key=lambda pair: pair[0])
    if [number for number, _ in numbered] != list(range(len(numbered))):
        raise AssayError(
            f"{file} needs the items 0 to {len(numbered) - 1}, and some are missing", do="score the whole test split: --split test"
        )
    return numbered


def tsv(spec: SubmissionFile, items: Sequence[Prediction]) -> str:
    """Columns `index` and `prediction`. A similarity is clipped to 0 to 5 and has three decimals."""
    lines = ["index\tprediction"]
    for number, item in in_order(items, spec.file):
        label: Label = spec.labels[item.output["pick"]] if spec.labels else f"{min(5.0, max(0.0, item.output['value'])):.3f}"
        lines.append(f"{number}\t{label}")
    return "\n".join(lines) + "\n"


def plain(spec: SubmissionFile, items: Sequence[Prediction]) -> list[dict[str, Any]]:
    return [{"idx": number, "label": spec.labels[item.output["pick"]]} for number, item in in_order(items, spec.file)]


def multirc(spec: SubmissionFile, items: Sequence[Prediction]) -> list[dict[str, Any]]:
    """One object per paragraph, with nested questions and answers in the order of their numbers."""
    nested: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for item in sorted(items, key=lambda item: tuple(map(int, item.id.split("-")))):
        paragraph, question, answer = map(int, item.id.split("-"))
        label = {"idx": answer, "label": spec.labels[item.output["pick"]]}
        nested.setdefault(paragraph, {}).setdefault(question, []).append(label)
    return [
        {"idx": paragraph, "passage": {"questions": [{"idx": question, "answers": answers} for question, answers in questions.items()]}}
        for paragraph, questions in nested.items()
    ]


def record(spec: SubmissionFile, items: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The predicted entity by query number."""
    named = [(int(item.id.split("-")[1]), item.meta["entities"][item.output["pick"]]) for item in items]
    return [{"idx": query, "label": entity} for query, entity in sorted(named)]


def jsonl(name: str, spec: SubmissionFile, items: Sequence[Prediction]) -> str:
    rows = {"multirc": multirc, "record": record}.get(name, plain)(spec, items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(run: Run, folder: Path, family: str, specs: Mapping[str, SubmissionFile]) -> list[Path]:
    """Write all files that the run has predictions for, and MISSING.txt if some are missing."""
    found = predictions(run, family, specs)
    texts = {}
    for name, items in found.items():
        texts[specs[name].file] = tsv(specs[name], items) if family == "glue" else jsonl(name, specs[name], items)
    if missing := [each.file for each in specs.values() if each.file not in texts]:
        texts["MISSING.txt"] = "\n".join(missing) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    return [folder / file for file in texts]


def glue_submission(run: Run, folder: Path) -> list[Path]:
    """Eleven TSV files with the header `index`, `prediction`."""
    return write(run, folder, "glue", GLUE)


def superglue_submission(run: Run, folder: Path) -> list[Path]:
    """Ten JSON-lines files with `idx` and `label`; MultiRC nested by paragraph and question."""
    return write(run, folder, "superglue", SUPERGLUE)


EXPORTS: Mapping[str, Callable[[Run, Path], list[Path]]] = {
    "glue-submission": glue_submission,
    "superglue-submission": superglue_submission,
}
"""Formats of `assay store export` for these benchmarks."""
