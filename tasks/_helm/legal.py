"""LegalBench, the five tasks of HELM Lite."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from assay import Doc, Generate, Layout, Shots, Task, hub
from assay.harness.metrics.text import exact_match, quasi_exact_match
from assay.tasks._helm.common import Derived, DerivedSplit, ask_after, instructions, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row

Fields = tuple[tuple[str, str], ...]

SUBSETS: dict[str, tuple[str, Fields, str, str]] = {
    "abercrombie": (
        "A mark is generic if it is the common name for the product. A mark is descriptive if it describes a purpose, nature, or "
        "attribute of the product. A mark is suggestive if it suggests or implies a quality or characteristic of the product. A mark is "
        "arbitrary if it is a real English word that has no relation to the product. A mark is fanciful if it is an invented word.",
        (("Description", "text"),),
        "Label",
        "fanciful",
    ),
    "corporate_lobbying": (
        "You are a lobbyist analyzing Congressional bills for their impacts on companies. Given the title and summary of the bill, plus "
        "information on the company from its 10K SEC filing, it is your job to determine if a bill is at least somewhat relevant to a "
        "company in terms of whether it could impact the company's bottom-line if it was enacted (by saying Yes or No).",
        (
            ("Official title of bill", "bill_title"),
            ("Official summary of bill", "bill_summary"),
            ("Company name", "company_name"),
            ("Company business description", "company_description"),
        ),
        "Is this bill potentially relevant to the company? Yes or No?",
        "No",
    ),
    "function_of_decision_section": (
        "Classify the following text using one of these functions of a section of a legal decision: Facts, Procedural History, Issue, "
        "Rule, Analysis, Conclusion, Decree.",
        (("Text", "Paragraph"),),
        "Label",
        "Facts",
    ),
    "international_citizenship_questions": (
        "Answer the following questions considering the state of international law on January 1st, 2020.",
        (("Question", "question"),),
        "Answer",
        "Yes",
    ),
    "proa": (
        "A private right of action (PROA) exists when a statute empowers an ordinary individual (i.e., a private person) to legally "
        "enforce their rights by bringing an action in court. Does the following clause of a statute specify a private right of action?",
        (("Statute", "text"),),
        "Answer",
        "No",
    ),
}
"""Instruction, prompt fields, prefix of the answer, a valid answer."""


def clause(fields: Fields, noun: str, row: Row) -> Doc:
    text = "\n".join(f"{name}: {row[column]}" for name, column in fields)
    return Doc(ask_after(text, "", noun.removesuffix(":")), references=(row["answer"],))


def rows_of(subset: str) -> Derived:
    """Test and train rows. The few train rows are also the split "dev", used with --allow-partial if there are no test rows."""
    source = hub("nguha/legalbench", subset)
    train = ((source, "train"),)
    return Derived({"test": DerivedSplit(((source, "test"),)), "train": DerivedSplit(train), "dev": DerivedSplit(train, stand_in=True)})


def legal_task(subset: str) -> Task:
    instruction, fields, noun, answer = SUBSETS[subset]
    row = {**{column: f"({column})" for _, column in fields}, "answer": answer}
    prompt = "".join(f"{name}: ({column})\n" for name, column in fields) + f"{noun}:"
    return scenario(
        f"legalbench/{subset}",
        rows=rows_of(subset),
        doc=functools.partial(clause, fields, noun),
        ask=Generate(30, ("\n",)),
        metrics=(quasi_exact_match, exact_match),
        shots=Shots(0, split="train", order="balanced"),
        layout=Layout(instructions=instructions(instruction)),
        worked=worked(row, prompt, answer),
        about="A task of LegalBench. HELM uses five rows of the train split (--shots 5). Instructions are paraphrased from LegalBench.",
        licence="CC BY 4.0",
        citation="Guha et al. 2023, LegalBench: A Collaboratively Built Benchmark for Measuring Legal Reasoning in Large Language Models",
    )


LEGAL_TASKS: tuple[Task, ...] = tuple(legal_task(subset) for subset in SUBSETS)
