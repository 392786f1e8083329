"""BIG-bench Hard: 27 tasks, three chain-of-thought exemplars each, the answer read out of the last sentence.

Two protocols. `bbh` reads whatever follows the last "the answer is" and lets the model speak until it asks a new question.
`bbh-historic` does what lm-eval's `bbh_cot_fewshot` did: it stops at any capital Q, and its pattern drops the last character of the
answer (it expects a full stop), so that one missing full stop or one space after it makes a right answer wrong.

The exemplars are data: `cot-prompts/<task>.txt` beside the test rows of `$ASSAY_DATA/lukaemon__bbh`. Source: Suzgun et al. 2022,
repository suzgunmirac/BIG-Bench-Hard.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import (
    Access,
    AssayError,
    Completion,
    Doc,
    Family,
    Generate,
    Layout,
    Metric,
    Shots,
    Task,
    Term,
    Total,
    Worked,
    exact_match,
    hub,
    inline,
)

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.source import Rows

REPO = "lukaemon/bbh"
COT = "cot"
"""Name of the split that holds the exemplars."""
ASK = "Let's think step by step."
SUBJECTS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)
ABOUT = "One of the 27 BIG-bench tasks on which language models of 2022 stayed below people; answered after thinking aloud."
LICENCE = "MIT"
CITATION = "Suzgun et al. 2022, Challenging BIG-Bench Tasks and Whether Chain-of-Thought Can Solve Them"
OPTION = re.compile(r"\([A-Z]\)")
HISTORIC = re.compile(r"(?<=the answer is )(.*)(?=.)")
CUE = re.compile(r"\bthe (?:final )?answer(?: is|:)[ \t]*:?", re.IGNORECASE)


def repaired(doc: Doc, text: str) -> str:
    """What follows the last "the answer is", without outer space, quotes, emphasis and the full stop; the letter for options.

    A single line without these words is taken whole: a bare answer.
    """
    *before, last = CUE.split(text)
    if not before and "\n" in last.strip():
        return ""
    answer = last.strip().partition("\n")[0].strip().strip("*`\"'$").strip().removesuffix(".").strip("*`\"'$ ")
    letter = OPTION.search(answer)
    wants_letter = any(OPTION.fullmatch(gold) for gold in doc.references)
    return letter.group() if letter and wants_letter else answer


def historic(doc: Doc, text: str) -> str:
    """lm-eval's pattern, which drops the last character."""
    found = HISTORIC.search(text)
    return found.group(1) if found else ""


def answer_match(extract: Callable[[Doc, str], str], name: str) -> Metric[Completion]:
    """Exact match of the extracted answer; none at all counts as unparsed."""

    def measure(doc: Doc, output: Completion) -> tuple[float, ...]:
        return exact_match.measure(doc, replace(output, text=extract(doc, output.text)))

    def parses(doc: Doc, output: Completion) -> bool:
        return bool(extract(doc, output.text))

    return replace(exact_match, measure=measure, parses=parses, signature=f"extract:{name}")


PROTOCOLS: dict[str, tuple[tuple[str, ...], Metric[Completion]]] = {
    "bbh": (("\nQ:",), answer_match(repaired, "repaired")),
    "bbh-historic": (("Q", "</s>", "\n\n"), answer_match(historic, "lm-eval")),
}
NAMES = ("bbh", *(f"bbh/{subject}" for subject in SUBJECTS))
TASKS: tuple[Task, ...] = ()
FAMILIES: tuple[Family, ...] = ()


@dataclass(frozen=True, slots=True)
class Exemplars:
    """A cot-prompts file: the instruction, and question and reasoned answer of each exemplar."""

    instructions: str
    rows: tuple[Row, ...]
    newline: bool
    """Whether the reasoning begins on a line of its own: in all tasks but sports_understanding."""


@dataclass(frozen=True, slots=True)
class WithExemplars:
    """The test rows of a task, and its exemplars as the split "cot"."""

    test: Any
    shown: Exemplars
    origin: str

    def at(self, home: Path) -> WithExemplars:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return ("test", COT)

    def load(self, split: str, access: Access) -> Rows:
        if split == COT:
            return replace(inline(**{COT: self.shown.rows}).load(COT, access), origin=self.origin)
        rows: Rows = self.test.load(split, access)
        return rows


def read_exemplars(path: Path) -> Exemplars:
    """Raises AssayError where the file is missing or not of the published form."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise AssayError(
            "the exemplars of BIG-bench Hard are not here",
            where=str(path),
            do="put the repository's cot-prompts folder there (it is not part of the hub data set), with ASSAY_DATA naming the data folder",
        ) from None
    body = text.partition("-----\n")[2] or text
    head, *parts = re.split(r"^Q: ", body, flags=re.MULTILINE)
    found = [part.strip().partition(f"\nA: {ASK}") for part in parts]
    if not found or not all(answer.strip() for _, _, answer in found):
        raise AssayError("not three questions, each with its reasoning", where=str(path), do="fetch the prompt files again")
    rows = tuple({"input": question, "target": answer.strip()} for question, _, answer in found)
    return Exemplars(head.strip() + "\n\n", rows, all(answer.startswith("\n") for _, _, answer in found))


def read(row: Row) -> Doc:
    return Doc(f"Q: {row['input']}\nA: {ASK}\n", references=(row["target"],))


def read_on_one_line(row: Row) -> Doc:
    return Doc(f"Q: {row['input']}\nA: {ASK}", references=(row["target"],))


def task_of(subject: str, protocol: str, access: Access) -> Task:
    folder = (access.data or Path("no ASSAY_DATA")) / REPO.replace("/", "__") / "cot-prompts"
    shown = read_exemplars(folder / f"{subject}.txt")
    stop, metric = PROTOCOLS[protocol]
    doc = read if shown.newline else read_on_one_line
    row = {"input": "not ( True or False ) is", "target": "False"}
    return Task(
        name=f"bbh/{subject}",
        rows=WithExemplars(hub(REPO, subject), shown, f"cot-prompts/{subject}.txt"),
        doc=doc,
        ask=Generate(1024, stop),
        metrics=(metric,),
        split="test",
        shots=Shots(3, split=COT, order="first"),
        layout=Layout(instructions=shown.instructions, separator="\n\n"),
        protocol=protocol,
        worked=(Worked(row, f"Q: not ( True or False ) is\nA: {ASK}" + "\n" * shown.newline, "False"),),
        about=ABOUT,
        licence=LICENCE,
        citation=CITATION,
    )


def find_family(name: str, access: Access) -> Family | None:
    """`bbh` or `bbh/<task>`, with `@bbh-historic` for the old protocol; None if not ours. Raises AssayError where data are missing."""
    plain, _, protocol = name.partition("@")
    protocol = protocol or "bbh"
    head, _, subject = plain.partition("/")
    if head != "bbh" or protocol not in PROTOCOLS or (subject and subject not in SUBJECTS):
        return None
    if subject:
        return Family(name, (task_of(subject, protocol, access),))
    tasks = tuple(task_of(each, protocol, access) for each in SUBJECTS)
    terms = tuple(Term(task.full_name, "exact_match", 1.0) for task in tasks)
    return Family(name, tasks, (Total(f"bbh@{protocol}", terms, by_size=True),), "BIG-bench Hard: mean over all items of its 27 tasks")
