"""LegalBench, the five tasks of HELM Lite.

Instructions, fields and output nouns are those of LegalBench (CC BY 4.0), helm_prompt_settings.jsonl, which HELM reads.
"""

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
        "arbitrary if it is a real English word that has no relation to the product. A mark is fanciful if it is an invented word. "
        "Label the type of mark for the following products.",
        (("Description", "text"),),
        "Type",
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
        "Label",
        "No",
    ),
    "function_of_decision_section": (
        "Classify the following text using the following definitions.\n\n"
        "- Facts: The paragraph describes the factual background that led up to the present lawsuit.\n"
        "- Procedural History: The paragraph describes the course of litigation that led to the current proceeding before the court.\n"
        "- Issue: The paragraph describes the legal or factual issue that must be resolved by the court.\n"
        "- Rule: The paragraph describes a rule of law relevant to resolving the issue.\n"
        "- Analysis: The paragraph analyzes the legal issue by applying the relevant legal principles to the facts of the present "
        "dispute.\n"
        "- Conclusion: The paragraph presents a conclusion of the court.\n"
        "- Decree: The paragraph constitutes a decree resolving the dispute.",
        (("Text", "Paragraph"),),
        "Function",
        "Facts",
    ),
    "international_citizenship_questions": (
        "Answer the following questions considering the state of international law on January 1st, 2020. Answer Yes or No.",
        (("Question", "question"),),
        "Answer",
        "Yes",
    ),
    "proa": (
        "A private right of action is when a regular person, a private citizen, is legally entitled to enforce their rights under a "
        "given statute. Does the clause specify a private right of action? Answer Yes or No.",
        (("Statute", "text"),),
        "Answer",
        "No",
    ),
}
"""Instruction, prompt fields, prefix of the answer, a valid answer."""

TRAIN_ROWS = {"international_citizenship_questions": 4}
"""Splits with fewer than five rows: HELM shows all of them."""


def clause(fields: Fields, noun: str, row: Row) -> Doc:
    text = "\n".join(f"{name}: {row[column]}" for name, column in fields)
    return Doc(ask_after(text, "", noun), references=(row["answer"],), inputs=(text,))


def rows_of(subset: str) -> Derived:
    """Test and train rows. The few train rows are also the split "dev", used with --allow-partial if there are no test rows."""
    source = hub("nguha/legalbench", subset, revision="daec8237410aa23e3faf4bc41ad8b3a7e1696826")
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
        version=2,
        shots=Shots(min(5, TRAIN_ROWS.get(subset, 5)), order="balanced"),
        layout=Layout(instructions=instructions(instruction)),
        worked=worked(row, prompt, answer),
        about="A task of LegalBench, with up to five few-shot examples (all four of international_citizenship_questions).",
        licence="CC BY 4.0",
        citation="Guha et al. 2023, LegalBench: A Collaboratively Built Benchmark for Measuring Legal Reasoning in Large Language Models",
    )


LEGAL_TASKS: tuple[Task, ...] = tuple(legal_task(subset) for subset in SUBSETS)
