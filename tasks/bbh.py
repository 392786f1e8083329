"""BIG-bench Hard: 27 tasks, three chain-of-thought examples each; the answer is extracted from the last sentence.

Three protocols, which differ in how the answer is read. `bbh` takes what follows the last "the answer is", however it is spelled.
`bbh-paper` takes it as the paper's notebooks do: "A." is no (A), and "no" is no No.
`bbh-historic` repeats lm-eval's `bbh_cot_fewshot`: it stops at any capital Q, and its pattern drops the last character of the
answer (it expects a full stop), so a missing full stop, or a space after it, makes a correct answer wrong.

The few-shot examples are data: `cot-prompts/<task>.txt` beside the test rows of `$ASSAY_DATA/lukaemon__bbh`. Source: Suzgun et al. 2022,
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
from assay.tasks._bbh_answers import historic, paper, tolerant

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.source import Rows

REPO = "lukaemon/bbh"
COT = "cot"
"""Name of the split with the few-shot examples."""
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
ABOUT = "One of the 27 BIG-bench tasks on which language models of 2022 scored below people; answered with chain-of-thought."
LICENCE = "MIT"
CITATION = "Suzgun et al. 2022, Challenging BIG-Bench Tasks and Whether Chain-of-Thought Can Solve Them"


def answer_match(extract: Callable[[Doc, str], str], name: str) -> Metric[Completion]:
    """Exact match of the extracted answer. A response without one counts as unparsed."""

    def measure(doc: Doc, output: Completion) -> tuple[float, ...]:
        return exact_match.measure(doc, replace(output, text=extract(doc, output.text)))

    def parses(doc: Doc, output: Completion) -> bool:
        return bool(extract(doc, output.text))

    return replace(exact_match, measure=measure, parses=parses, signature=f"extract:{name}")


PROTOCOLS: dict[str, tuple[tuple[str, ...], Metric[Completion]]] = {
    "bbh": (("\nQ:",), answer_match(tolerant, "tolerant:2")),
    "bbh-paper": (("\nQ:",), answer_match(paper, "paper")),
    "bbh-historic": (("Q", "</s>", "\n\n"), answer_match(historic, "lm-eval")),
}
NAMES = ("bbh", *(f"bbh/{subject}" for subject in SUBJECTS))
TASKS: tuple[Task, ...] = ()
FAMILIES: tuple[Family, ...] = ()


@dataclass(frozen=True, slots=True)
class FewShotFile:
    """A cot-prompts file: the instruction, and the question and reasoned answer of each few-shot example."""

    instructions: str
    rows: tuple[Row, ...]
    newline: bool
    """Whether the reasoning starts on a new line (in all tasks but sports_understanding)."""


@dataclass(frozen=True, slots=True)
class WithFewShotSplit:
    """The test rows of a task, and its few-shot examples as the split "cot"."""

    test: Any
    few_shot: FewShotFile
    origin: str

    def at(self, home: Path) -> WithFewShotSplit:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return ("test", COT)

    def load(self, split: str, access: Access) -> Rows:
        if split == COT:
            return replace(inline(**{COT: self.few_shot.rows}).load(COT, access), origin=self.origin)
        rows: Rows = self.test.load(split, access)
        return rows


def read_few_shot(path: Path) -> FewShotFile:
    """Read a cot-prompts file. Raises AssayError if it is missing or malformed."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise AssayError(
            "the few-shot examples of BIG-bench Hard are missing",
            where=str(path),
            do="copy cot-prompts/ of github.com/suzgunmirac/BIG-Bench-Hard there; ASSAY_DATA is the data folder",
        ) from None
    body = text.partition("-----\n")[2] or text
    head, *parts = re.split(r"^Q: ", body, flags=re.MULTILINE)
    found = [part.strip().partition(f"\nA: {ASK}") for part in parts]
    if not found or not all(answer.strip() for _, _, answer in found):
        raise AssayError("expected questions, each with its reasoning", where=str(path), do="download the cot-prompts files again")
    rows = tuple({"input": question, "target": answer.strip()} for question, _, answer in found)
    return FewShotFile(head.strip() + "\n\n", rows, all(answer.startswith("\n") for _, _, answer in found))


def read(row: Row) -> Doc:
    return Doc(f"Q: {row['input']}\nA: {ASK}\n", references=(row["target"],))


def read_on_one_line(row: Row) -> Doc:
    return Doc(f"Q: {row['input']}\nA: {ASK}", references=(row["target"],))


def task_of(subject: str, protocol: str, access: Access) -> Task:
    folder = (access.data or Path("no ASSAY_DATA")) / REPO.replace("/", "__") / "cot-prompts"
    few_shot = read_few_shot(folder / f"{subject}.txt")
    stop, metric = PROTOCOLS[protocol]
    doc = read if few_shot.newline else read_on_one_line
    row = {"input": "not ( True or False ) is", "target": "False"}
    return Task(
        name=f"bbh/{subject}",
        rows=WithFewShotSplit(hub(REPO, subject), few_shot, f"cot-prompts/{subject}.txt"),
        doc=doc,
        ask=Generate(1024, stop),
        metrics=(metric,),
        split="test",
        shots=Shots(3, split=COT, order="first"),
        layout=Layout(instructions=few_shot.instructions, separator="\n\n"),
        protocol=protocol,
        worked=(Worked(row, f"Q: not ( True or False ) is\nA: {ASK}" + "\n" * few_shot.newline, "False"),),
        about=ABOUT,
        licence=LICENCE,
        citation=CITATION,
    )


def find_family(name: str, access: Access) -> Family | None:
    """`bbh` or `bbh/<task>`, with `@bbh-paper` or `@bbh-historic` for the others; None for other names.

    Raises AssayError if data are missing.
    """
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
