"""Predictions for the hidden test sets, as the leaderboards of GLUE and SuperGLUE want them: one file per task, exact names and labels.

    assay run --model M --tasks glue --split test
    assay store export RUN --format glue-submission --to out/

Sources: gluebenchmark.com/faq and super.gluebenchmark.com/faq; jiant's submission writers. MISSING.txt names the files that the
leaderboard wants and the run has no predictions for.
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
class Wanted:
    """A file of a leaderboard: its name and the label of each choice (none where the answer is a number or a text)."""

    file: str
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One item of the test set: its id, its planned choices and what was answered: a pick or a number."""

    id: str
    meta: Mapping[str, Any]
    output: Mapping[str, Any]


GLUE: Mapping[str, Wanted] = {
    "cola": Wanted("CoLA.tsv", NUMBERS),
    "sst2": Wanted("SST-2.tsv", NUMBERS),
    "mrpc": Wanted("MRPC.tsv", NUMBERS),
    "stsb": Wanted("STS-B.tsv"),
    "qqp": Wanted("QQP.tsv", NUMBERS),
    "mnli": Wanted("MNLI-m.tsv", THREE),
    "mnli_mismatched": Wanted("MNLI-mm.tsv", THREE),
    "qnli": Wanted("QNLI.tsv", ENTAILS),
    "rte": Wanted("RTE.tsv", ENTAILS),
    "wnli": Wanted("WNLI.tsv", NUMBERS),
    "ax": Wanted("AX.tsv", THREE),
}
SUPERGLUE: Mapping[str, Wanted] = {
    "boolq": Wanted("BoolQ.jsonl", WORDS),
    "cb": Wanted("CB.jsonl", ("entailment", "contradiction", "neutral")),
    "copa": Wanted("COPA.jsonl", NUMBERS),
    "multirc": Wanted("MultiRC.jsonl", NUMBERS),
    "record": Wanted("ReCoRD.jsonl"),
    "rte": Wanted("RTE.jsonl", ENTAILS),
    "wic": Wanted("WiC.jsonl", WORDS),
    "wsc": Wanted("WSC.jsonl", ("False", "True")),
    "axb": Wanted("AX-b.jsonl", ENTAILS),
    "axg": Wanted("AX-g.jsonl", ENTAILS),
}


def predictions(run: Run, family: str, wanted: Mapping[str, Wanted]) -> dict[str, list[Prediction]]:
    """The run's answers by task. Raises AssayError where the run is not of whole test splits, or holds none of these tasks."""
    facts = {str(task["name"]).partition("@")[0]: task for task in run.manifest["tasks"]}
    chosen = {name: facts[f"{family}/{name}"] for name in wanted if f"{family}/{name}" in facts}
    if not chosen:
        raise AssayError(f"holds no task of {family}", where=run.id, do=f"assay run --tasks {family} --split test")
    for task in chosen.values():
        if task["split"] != "test" or task["evidence"] != "complete":
            state = f"was run on {task['split']!r} ({task['evidence']})"
            raise AssayError(f"{task['name']} {state}", where=run.id, do="the leaderboard wants every item of the test split: --split test")
    full = {str(task["name"]): name for name, task in chosen.items()}
    metas = {(item.task, item.id): item.doc.get("meta", {}) for item in run.items()}
    found: dict[str, list[Prediction]] = {name: [] for name in chosen}
    for record in run.records():
        if record.task in full:
            found[full[record.task]].append(Prediction(record.item, metas[record.task, record.item], record.output))
    return found


def in_order(items: Sequence[Prediction], file: str) -> list[tuple[int, Prediction]]:
    """By the test set's own numbers, which must run from 0 without a gap."""
    numbered = sorted(((int(item.id), item) for item in items), key=lambda pair: pair[0])
    if [number for number, _ in numbered] != list(range(len(numbered))):
        raise AssayError(f"{file} needs the items 0 to {len(numbered) - 1}, and some are missing", do="run the whole test split")
    return numbered


def tsv(wanted: Wanted, items: Sequence[Prediction]) -> str:
    """`index` and `prediction`; a similarity within 0 to 5, three decimals."""
    lines = ["index\tprediction"]
    for number, item in in_order(items, wanted.file):
        label: Label = wanted.labels[item.output["pick"]] if wanted.labels else f"{min(5.0, max(0.0, item.output['value'])):.3f}"
        lines.append(f"{number}\t{label}")
    return "\n".join(lines) + "\n"


def plain(wanted: Wanted, items: Sequence[Prediction]) -> list[dict[str, Any]]:
    return [{"idx": number, "label": wanted.labels[item.output["pick"]]} for number, item in in_order(items, wanted.file)]


def multirc(wanted: Wanted, items: Sequence[Prediction]) -> list[dict[str, Any]]:
    """One line per paragraph; questions and answers nested, in the order of their numbers."""
    nested: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for item in sorted(items, key=lambda item: tuple(map(int, item.id.split("-")))):
        paragraph, question, answer = map(int, item.id.split("-"))
        label = {"idx": answer, "label": wanted.labels[item.output["pick"]]}
        nested.setdefault(paragraph, {}).setdefault(question, []).append(label)
    return [
        {"idx": paragraph, "passage": {"questions": [{"idx": question, "answers": answers} for question, answers in questions.items()]}}
        for paragraph, questions in nested.items()
    ]


def record(wanted: Wanted, items: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The picked entity by the number of its query."""
    named = [(int(item.id.split("-")[1]), item.meta["entities"][item.output["pick"]]) for item in items]
    return [{"idx": query, "label": entity} for query, entity in sorted(named)]


def jsonl(name: str, wanted: Wanted, items: Sequence[Prediction]) -> str:
    rows = {"multirc": multirc, "record": record}.get(name, plain)(wanted, items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(run: Run, folder: Path, family: str, wanted: Mapping[str, Wanted]) -> list[Path]:
    """All files that the run has the predictions for, and MISSING.txt where some are lacking."""
    found = predictions(run, family, wanted)
    texts = {}
    for name, items in found.items():
        texts[wanted[name].file] = tsv(wanted[name], items) if family == "glue" else jsonl(name, wanted[name], items)
    if missing := [each.file for each in wanted.values() if each.file not in texts]:
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
"""Formats of `assay store export` that belong to these benchmarks."""
