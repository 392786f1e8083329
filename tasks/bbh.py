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
    Published,
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
    from assay.harness.task.hub import Hub
    from assay.harness.task.source import Rows

REPO, REVISION = "SaylorTwift/bbh", "b5306be6f827cfafbb545ff5a51f96916029b0fd"
FORMER, FOLDER = "lukaemon/bbh", "lukaemon__bbh/cot-prompts"
"""The id under which older mirrors hold the rows, and the folder of the few-shot examples in every mirror."""
COT = "cot"
"""Name of the split with the few-shot examples."""
ASK = "Let's think step by step."
COT_FILES = {
    "boolean_expressions": "685affba97425cdf3549d5d313ba876caed2fa7c8a4cf1ea7549faf22179609d",
    "causal_judgement": "14377e36cccb084b7d0fe73988d08696f7675d712b02d3ae1f5f7f12c77028ea",
    "date_understanding": "a0a13c392f689a1828f5f6ffb9dee3d44483794490da5d92f0e2a723787b1cfb",
    "disambiguation_qa": "794fd259297972a4c963a5d13a84dc221edde460de27fa5d8fd64299a2001597",
    "dyck_languages": "b0836603007ec659ed685458647fb6d7543543304e7aca909b995d0c3aff22b2",
    "formal_fallacies": "10c06cc362520e9b8dddfc4861e263ff668d228a52d958dcc69f09f1d224935a",
    "geometric_shapes": "f36d9893507eb518d84f388fb677dc0226c74a98873700de0b556548d65d3f76",
    "hyperbaton": "19898af91c35cb26bbdf5fdb6f6fb17e138677250332e2994005625ffb50b261",
    "logical_deduction_five_objects": "4ed65246c0c1c4b0b4053d784181892b842bce19cf4358c976f34b1a434ef034",
    "logical_deduction_seven_objects": "4ed65246c0c1c4b0b4053d784181892b842bce19cf4358c976f34b1a434ef034",
    "logical_deduction_three_objects": "4ed65246c0c1c4b0b4053d784181892b842bce19cf4358c976f34b1a434ef034",
    "movie_recommendation": "cdf765634713b057091d541b4773dd2c998f81447b0bd8564ae70be4cdf3f5d0",
    "multistep_arithmetic_two": "a546e0b7cde09037bc144ae5c32c9cf78dafdfac929ae76e2051b2dd8f3671ce",
    "navigate": "dc2fd733f1867b8c79685f15b83746064534a94bf73468341c2a9dd335be22fc",
    "object_counting": "e51ffc03fd713a13a379a6c938a523dfc1c2f384f2a8447bd7a12d4458f18833",
    "penguins_in_a_table": "33be137e76c2a6af0bbacd17a8e7a92801886c0202a45e35ea9c2a88c1f26d51",
    "reasoning_about_colored_objects": "e4ea02d05b13e8ed9ccc3b0d878bc4df4c5a6fb76c65d39d48d6244f7ff0b9d5",
    "ruin_names": "731446c6c66bb5258677af1417b599a6a5539be6d74a5afc02cf7a716444ea54",
    "salient_translation_error_detection": "2c8367f75092202cc507fdbfaaf037b1c1eed38e91289084439738367f0785f7",
    "snarks": "35084a2a0b86bc4008ab206b838c0b97dd425897dd72198137c3cefc499c0960",
    "sports_understanding": "2058a9bed717a6edb8ca2f815e88851436a4ee14c8b0d504ccf464865c6d0295",
    "temporal_sequences": "3e7ebf1e20abe3e219dc6514dcb7474d82db1b2c66acc733cd30af2e9e0b64b0",
    "tracking_shuffled_objects_five_objects": "2ef54cb2a72052adc3484a76209cb6a6535f194d677e79bcec2e2e71cf3768af",
    "tracking_shuffled_objects_seven_objects": "2ef54cb2a72052adc3484a76209cb6a6535f194d677e79bcec2e2e71cf3768af",
    "tracking_shuffled_objects_three_objects": "2ef54cb2a72052adc3484a76209cb6a6535f194d677e79bcec2e2e71cf3768af",
    "web_of_lies": "c8025ca65ab7f0897c243504c863bda043d04b6e873777536743e94023c929d0",
    "word_sorting": "a2cdbcfe23abaa97b9787f7c03dbf49b1cfd0ff9e63197b7884bb5cd5a096ca6",
}
"""The SHA-256 of every task's file of few-shot examples, as published at COT_URL."""
COT_URL = "https://raw.githubusercontent.com/suzgunmirac/BIG-Bench-Hard/9ee07bd481feebf959a6b59d61ea57bdcf30964d/cot-prompts"
SUBJECTS = tuple(COT_FILES)
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
            do="assay fetch bbh --to DIR, then set ASSAY_DATA=DIR",
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


def rows_of(subject: str) -> Hub:
    """The questions of a task."""
    return hub(REPO, subject, revision=REVISION, former=(FORMER, subject))


def task_of(subject: str, protocol: str, access: Access) -> Task:
    folder = (access.data or Path("no ASSAY_DATA")) / FOLDER
    few_shot = read_few_shot(folder / f"{subject}.txt")
    stop, metric = PROTOCOLS[protocol]
    doc = read if few_shot.newline else read_on_one_line
    row = {"input": "not ( True or False ) is", "target": "False"}
    return Task(
        name=f"bbh/{subject}",
        rows=WithFewShotSplit(rows_of(subject), few_shot, f"cot-prompts/{subject}.txt"),
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


def find_files(name: str) -> dict[str, Published]:
    """The few-shot examples of `bbh` or `bbh/<task>`, by their place in a mirror; nothing for other names."""
    head, _, subject = name.partition("@")[0].partition("/")
    wanted = SUBJECTS if head == "bbh" and not subject else (subject,) if head == "bbh" and subject in SUBJECTS else ()
    return {f"{FOLDER}/{each}.txt": Published(f"{COT_URL}/{each}.txt", COT_FILES[each]) for each in wanted}


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
