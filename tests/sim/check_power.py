"""Measures how often `assay check` finds each defect: python -m tests.sim.check_power [trials] writes results/checks/README.md.

Every trial makes 1,000 items, puts the defect into each with probability 0.05, and counts whether the check reports it at level
W or E. Trials without a defect count whether any check does.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay import Access, Choose, Doc, Generate, Layout, Metric, Task, accuracy, exact_match, inline
from assay.harness.checking import Finding, check_task
from assay.harness.checking.overlap import few_shot_overlap
from assay.harness.checking.responses import TaskRecords, response_findings
from assay.harness.checking.task_data import read_task_data
from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.interval import wilson
from assay.harness.store.record import Item, Record

ITEMS, RATE = 1000, 0.05
Row = dict[str, Any]
PLAIN = Layout()
SYLLABLES = ("ba", "do", "fe", "gi", "ku", "la", "mo", "ne", "pi", "ra", "so", "tu", "ve", "xa", "yo", "zi")
WORDS = tuple(a + b + c for a in SYLLABLES for b in SYLLABLES for c in ("n", "r", "l", "sk", "t"))


def some(draw: random.Random, low: int, high: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))


def choose_row(draw: random.Random) -> Row:
    return {"question": some(draw, 14, 40), "choices": [some(draw, 2, 4) for _ in range(4)], "gold": draw.randrange(4)}


def label_row(draw: random.Random) -> Row:
    return {"question": some(draw, 14, 40), "choices": ["no", "yes"], "gold": int(draw.random() < 0.6)}


def text_row(draw: random.Random) -> Row:
    return {"question": some(draw, 14, 40), "answer": some(draw, 2, 3)}


def number_row(draw: random.Random) -> Row:
    numbers = [draw.randint(2, 60) for _ in range(3)]
    return {"question": some(draw, 14, 30) + " {} and {} and {}".format(*numbers), "answer": str(draw.randint(2, 400))}


def reading_row(draw: random.Random) -> Row:
    passage = draw.choices(WORDS, k=60)
    start = draw.randrange(56)
    return {"question": " ".join(passage) + "\nQ: " + some(draw, 5, 9), "answer": " ".join(passage[start : start + 3])}


KINDS: dict[str, Callable[[random.Random], Row]] = {
    "four choices": choose_row,
    "two labels": label_row,
    "generated text": text_row,
    "generated number": number_row,
    "reading": reading_row,
}


def read(row: Row) -> Doc:
    prompt = f"{row['question']}?\nAnswer:{row.get('cue', '')}"
    if "choices" in row:
        return Doc(prompt, choices=tuple(row["choices"]), gold=row["gold"], id=row.get("id", ""))
    return Doc(prompt, references=(row["answer"],), id=row.get("id", ""))


def made_task(rows: list[Row], train: list[Row], layout: Layout = PLAIN) -> Task:
    metrics: tuple[Metric[Any], ...] = (accuracy,) if "choices" in rows[0] else (exact_match,)
    ask = Choose() if "choices" in rows[0] else Generate(8, ("\n",))
    return Task("made", inline(test=rows, train=train), read, ask, metrics, layout=layout)


def made_rows(kind: str, draw: random.Random, count: int) -> list[Row]:
    return [KINDS[kind](draw) for _ in range(count)]


def gold(row: Row) -> str:
    return str(row["choices"][row["gold"]] if "choices" in row else row["answer"])


Edit = Callable[[random.Random, Row, Sequence[Row]], Row]
"""The faulty form of a row, among all rows."""


def leak_at_cue(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return {**row, "cue": f" {gold(row)}"}


def leak_inside(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    words = row["question"].split()
    at = draw.randrange(1, len(words))
    return {**row, "question": " ".join([*words[:at], gold(row), *words[at:]])}


def repeated(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    other = draw.choice(rows)
    return {**other, "question": other["question"].upper()}


def contradicted(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    other = draw.choice(rows)
    return {**other, "gold": (other["gold"] + 1) % len(other["choices"])}


def spaced(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return {**row, "choices": [f" {choice}" for choice in row["choices"]]}


def twice(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return {
        **row,
        "choices": [row["choices"][row["gold"]], *row["choices"][1:]] if row["gold"] else [row["choices"][0]] * 2 + row["choices"][2:],
    }


def empty_choice(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return {**row, "choices": [*row["choices"][:3], ""]}


def without_question(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return {name: value for name, value in row.items() if name != "question"}


def same_id(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return {**row, "id": "1"}


def two_lines(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return {**row, "answer": row["answer"] + "\n" + some(draw, 1, 2)}


def too_long(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return {**row, "answer": some(draw, 9, 20)}


def edited(draw: random.Random, rate: float, kind: str, edit: Edit) -> list[Finding]:
    """The findings of a task with `edit` applied to a share of its rows."""
    rows = made_rows(kind, draw, ITEMS)
    faulty = [edit(draw, row, rows) if draw.random() < rate else row for row in rows]
    return list(check_task(made_task(faulty, made_rows(kind, draw, 50)), Access()).findings)


def without_space(draw: random.Random, rate: float) -> list[Finding]:
    """A layout without joint, whose prompts end in a space but for some."""
    rows = [{**row, "cue": "" if draw.random() < rate else " "} for row in made_rows("four choices", draw, ITEMS)]
    return list(check_task(made_task(rows, [], Layout(joint="")), Access()).findings)


def one_word_off(draw: random.Random, row: Row) -> Row:
    words = row["question"].split()
    words[draw.randrange(len(words))] = draw.choice(WORDS)
    return {**row, "question": " ".join(words)}


def long_row(draw: random.Random) -> Row:
    return {**choose_row(draw), "question": some(draw, 120, 200)}


def trained(draw: random.Random, rate: float, near: bool) -> list[Finding]:
    """Some test rows stand in the train split, in capitals or with another word."""
    rows = [long_row(draw) if near else choose_row(draw) for _ in range(ITEMS)]
    copies = [one_word_off(draw, row) if near else {**row, "question": row["question"].upper()} for row in rows if draw.random() < rate]
    return list(check_task(made_task(rows, made_rows("four choices", draw, 500) + copies), Access()).findings)


def templated(draw: random.Random, rate: float) -> list[Finding]:
    """Some test rows stand in the train split under another template, in lower case and without their last mark."""
    rows = [choose_row(draw) for _ in range(ITEMS)]
    copies = [{**row, "question": f"Read this and reply. Text: {row['question'].lower()}"} for row in rows if draw.random() < rate]
    return list(check_task(made_task(rows, made_rows("four choices", draw, 500) + copies), Access()).findings)


def shown(draw: random.Random, rate: float, near: bool) -> list[Finding]:
    """Some items have a copy of themselves among their three few-shot examples."""
    rows = [long_row(draw) if near else choose_row(draw) for _ in range(ITEMS)]
    material, _ = read_task_data(made_task(rows, made_rows("four choices", draw, 3)), Access(), shots=3)
    assert material is not None
    few_shot = []
    for row, own in zip(rows, material.few_shot, strict=True):
        copy = read(one_word_off(draw, row) if near else {**row, "question": row["question"].upper()})
        few_shot.append((own[0], replace(copy, id="copy"), own[2]) if draw.random() < rate else own)
    return few_shot_overlap(replace(material, few_shot=tuple(few_shot)))


Answer = Callable[[random.Random, Item], Record]


def choose_item(draw: random.Random, number: int) -> Item:
    choices = tuple(some(draw, 2, 4) for _ in range(4))
    right = draw.randrange(4)
    return Item(
        "made", f"i{number}", f"i{number}", f"i{number}", f"{some(draw, 9, 20)}?\nAnswer:", choices, choices[right], {"gold": right}
    )


def text_item(draw: random.Random, number: int) -> Item:
    answer = some(draw, 2, 3)
    return Item(
        "made", f"i{number}", f"i{number}", f"i{number}", f"{some(draw, 14, 30)}?\nAnswer:", gold=answer, doc={"references": [answer]}
    )


def picked(item: Item, pick: int, margin: float, draw: random.Random) -> Record:
    scores = [-8.0 - 4 * draw.random() for _ in item.choices]
    scores[pick] = max(scores) + margin
    output = {"pick": pick, "logprobs": [[score / 2, score / 2] for score in scores]}
    return Record("made", item.id, "scored", output, {"accuracy": (float(pick == item.doc["gold"]),)}, float(pick == item.doc["gold"]))


def good_pick(draw: random.Random, item: Item) -> Record:
    """A model that is right in nine of ten items."""
    return picked(item, item.doc["gold"] if draw.random() < 0.9 else draw.randrange(4), 0.01 + 3 * draw.random(), draw)


def completed(item: Item, text: str, status: Any = "scored", finish: str = "stop") -> Record:
    right = float(text.strip() == item.gold)
    return Record("made", item.id, status, {"text": text, "finish": finish, "tokens": 5}, {"exact_match": (right,)}, right)


def good_text(draw: random.Random, item: Item) -> Record:
    """A model that is right in six of ten items."""
    return completed(item, item.gold if draw.random() < 0.6 else some(draw, 2, 3))


def nan_reply(draw: random.Random, item: Item) -> Record:
    return Record("made", item.id, "error", error="non-finite log-probability")


def run_findings(draw: random.Random, rate: float, choose: bool, fault: Answer) -> list[Finding]:
    """The findings of a run with `fault` in a share of its answers."""
    items = [(choose_item if choose else text_item)(draw, number) for number in range(ITEMS)]
    good: Answer = good_pick if choose else good_text
    records = [(fault if draw.random() < rate else good)(draw, item) for item in items]
    ask: Choose | Generate = Choose() if choose else Generate(32, ("\n",))
    task = Task("made", inline(), read, ask, (accuracy,) if choose else (exact_match,))
    right = sum(record.correct or 0.0 for record in records)
    facts: Row = {"task": "made", "metric": task.metrics[0].name, "value": right / ITEMS, "main": True}
    low, high = interval(right, ITEMS)
    facts |= {"low": low, "high": high} | ({"chance": 0.25} if choose else {})
    return response_findings(TaskRecords(task, {}, tuple(items), tuple(records), (facts,)))


@dataclass(frozen=True, slots=True)
class Defect:
    """What is put in, the check that must find it, and the findings of one trial at a rate."""

    name: str
    check: str
    trial: Callable[[random.Random, float], list[Finding]]


def of_rows(name: str, check: str, kind: str, edit: Edit) -> Defect:
    return Defect(f"{name} ({kind})", check, lambda draw, rate: edited(draw, rate, kind, edit))


def of_run(name: str, check: str, choose: bool, fault: Answer) -> Defect:
    return Defect(name, check, lambda draw, rate: run_findings(draw, rate, choose, fault))


DEFECTS = (
    of_rows("answer after the cue", "gold-leak", "four choices", leak_at_cue),
    of_rows("answer after the cue", "gold-leak", "two labels", leak_at_cue),
    of_rows("answer after the cue", "gold-leak", "generated number", leak_at_cue),
    of_rows("answer after the cue", "gold-leak", "reading", leak_at_cue),
    of_rows("answer in the question", "gold-leak", "four choices", leak_inside),
    of_rows("answer in the question", "gold-leak", "generated text", leak_inside),
    of_rows("answer in the question", "gold-leak", "generated number", leak_inside),
    Defect("item among its exemplars", "shot-is-test", lambda draw, rate: shown(draw, rate, near=False)),
    Defect("item but for one word among its exemplars", "shot-is-test", lambda draw, rate: shown(draw, rate, near=True)),
    of_rows("repeated item", "dup-items", "generated text", repeated),
    of_rows("repeated item, other answer", "dup-items", "four choices", contradicted),
    Defect("item in the train split", "train-overlap", lambda draw, rate: trained(draw, rate, near=False)),
    Defect("item but for one word in the train split", "train-overlap", lambda draw, rate: trained(draw, rate, near=True)),
    Defect("item in the train split under another template", "train-overlap", templated),
    of_rows("doubled space", "joint", "four choices", spaced),
    Defect("missing space", "joint", without_space),
    of_rows("right answer listed twice", "choices", "four choices", twice),
    of_rows("empty choice", "choices", "four choices", empty_choice),
    of_rows("row without its question", "doc", "generated text", without_question),
    of_rows("same id", "ids", "generated text", same_id),
    of_rows("answer with a stop string", "oracle", "generated text", two_lines),
    of_rows("answer longer than max_tokens", "oracle", "generated text", too_long),
    of_run("no answer could be read", "unparsed", False, lambda draw, item: completed(item, some(draw, 2, 3), "unparsed")),
    of_run("right answer scored as wrong", "unparsed", False, lambda draw, item: completed(item, f"It is {item.gold}.")),
    of_run("cut at max_tokens", "length-cut", False, lambda draw, item: completed(item, some(draw, 20, 30), "truncated", "length")),
    of_run("empty answer", "degenerate", False, lambda draw, item: completed(item, " ")),
    of_run("end token as text", "end-token", False, lambda draw, item: completed(item, f"{item.gold}</s>")),
    of_run("one word repeated", "degenerate", False, lambda draw, item: completed(item, " ".join([draw.choice(WORDS)] * 9))),
    of_run("echo of the question", "degenerate", False, lambda draw, item: completed(item, item.prompt)),
    of_run("NaN", "nonfinite", True, nan_reply),
    of_run("tie", "ties", True, lambda draw, item: picked(item, draw.randrange(4), 1e-4, draw)),
    of_run("always choice A", "position-bias", True, lambda draw, item: picked(item, 0, 1.0, draw)),
)


def nothing(draw: random.Random, row: Row, rows: Sequence[Row]) -> Row:
    return row


CLEAN = (
    *(Defect(f"clean task ({kind})", "", lambda draw, rate, kind=kind: edited(draw, rate, kind, nothing)) for kind in KINDS),
    Defect("clean run (four choices)", "", lambda draw, rate: run_findings(draw, 0.0, True, good_pick)),
    Defect("clean run (generated text)", "", lambda draw, rate: run_findings(draw, 0.0, False, good_text)),
)


def fired(defect: Defect, rate: float, trials: int, seed: int = 0) -> int:
    """Number of trials in which the check (any check, without a defect) has a finding of level W or E."""
    count = 0
    for trial in range(trials):
        found = defect.trial(random.Random(f"{seed}:{defect.name}:{rate}:{trial}"), rate)
        count += any(finding.level in ("W", "E") and defect.check in ("", finding.check) for finding in found)
    return count


def line(number: int, trials: int) -> str:
    """One line of the table: a defect, or after the last defect a clean task or run."""
    defect, rate = (*DEFECTS, *CLEAN)[number], RATE if number < len(DEFECTS) else 0.0
    found = share(fired(defect, rate, trials), trials)
    return f"| {defect.name} | {defect.check} | {found} |" if rate else f"| {defect.name} | {found} |"


def report(trials: int) -> str:
    """The table, in Markdown; lines are made by several processes."""
    head = [
        "# Detection rates of `assay check`",
        "",
        "Faults of every kind and public reports, each as a case with its test: [CASES.md](CASES.md).",
        "",
        f"Made by `python -m tests.sim.check_power {trials}`: {ITEMS:,} made-up items per trial, {trials} trials per line.",
        "A defect is found if its check reports it at level W or E; a task or run without a defect is flagged if any check does.",
        "The model of the runs has an accuracy of 0.9 (choices) or 0.6 (texts); a position bias is harder to find with a weaker model.",
        "Brackets: Wilson's 95 % interval.",
        "",
        "| defect, in 5 % of the items | check | found |",
        "|---|---|---:|",
    ]
    numbers = range(len(DEFECTS) + len(CLEAN))
    with ProcessPoolExecutor(2) as pool:
        lines = []
        for text in pool.map(line, numbers, [trials] * len(numbers)):
            lines.append(text)
            print(text, file=sys.stderr, flush=True)
    clean = ["", "| without any defect | flagged |", "|---|---:|", *lines[len(DEFECTS) :]]
    return "\n".join([*head, *lines[: len(DEFECTS)], *clean]) + "\n"


def interval(count: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of count / n."""
    return wilson(count / n, n, z_quantile(0.975))


def share(count: int, trials: int) -> str:
    low, high = interval(count, trials)
    return f"{count / trials:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    folder = Path("results/checks")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(report(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
