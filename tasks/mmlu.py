"""MMLU: 57 subjects in four categories, under three protocols that give different scores.

"lm-eval" (the default) ranks the letters A to D; "continuation" ranks the texts of the choices (both as in lm-eval 0.4.13);
"helm" generates one token after five few-shot examples and compares it with the letter (HELM Classic and Lite: five subjects).
lm-eval defaults to 0 shots; the paper and most reports use 5, the dev rows in order (`--shots 5`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from assay import Choose, Completion, Doc, Family, Generate, Layout, Metric, Shots, Task, Term, Total, Worked, exact_match, hub
from assay.harness.metrics.choice import accuracy, accuracy_per

REVISION = "c30699e8356da336a370243923dbaf21066bb9fe"
CITATION = "Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, ICLR"
Row = Mapping[str, Any]
LETTERS = ("A", "B", "C", "D")

SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "stem": (
        "abstract_algebra",
        "anatomy",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ),
    "humanities": (
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ),
    "social_sciences": (
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ),
    "other": (
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ),
}
"""The subjects of each category, as lm-eval groups them. (The paper's categories.py has anatomy under other.)"""

HELM_SUBJECTS = ("abstract_algebra", "college_chemistry", "computer_security", "econometrics", "us_foreign_policy")

ROW: Row = {
    "question": " Which planet is the largest? ",
    "subject": "astronomy",
    "choices": ["Mars", "Earth", "Jupiter", "Venus"],
    "answer": 2,
}


def gold(row: Row) -> int | None:
    """Index of the correct choice; None if it is hidden (-1)."""
    answer = row.get("answer")
    return None if answer is None or answer < 0 else int(answer)


def lettered(row: Row) -> str:
    return "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, row["choices"], strict=True))


def letters(row: Row) -> Doc:
    question = row["question"].strip()
    return Doc(f"{question}\n{lettered(row)}Answer:", choices=LETTERS, gold=gold(row), inputs=(question,))


def continuation(row: Row) -> Doc:
    question = row["question"].strip()
    return Doc(f"Question: {question}\nAnswer:", choices=tuple(row["choices"]), gold=gold(row), inputs=(question,))


def joint(row: Row) -> Doc:
    """HELM's multiple_choice_joint: every letter whose text equals the correct choice is correct."""
    index = gold(row)
    right = () if index is None else (row["choices"][index],)
    references = tuple(letter for letter, choice in zip(LETTERS, row["choices"], strict=True) if choice in right)
    text, meta = f"Question: {row['question']}\n{lettered(row)}Answer:", {"options": list(row["choices"])}
    return Doc(text, references=references, inputs=(row["question"],), meta=meta)


def is_letter(doc: Doc, output: Completion) -> bool:
    return output.text.strip() in LETTERS


LETTER_MATCH: Metric[Completion] = replace(exact_match, parses=is_letter)
"""HELM's exact match of the letter. Any other response is wrong and counted as unparsed."""


def mmlu_task(subject: str, protocol: str, kind: str, about: str, **fields: Any) -> Task:
    """One subject under one protocol. `kind` names the questions in the instruction; `fields` are the rest of the Task."""
    topic = subject.replace("_", " ")
    return Task(
        name=f"mmlu/{subject}",
        rows=hub("cais/mmlu", "all", where={"subject": subject}, revision=REVISION),
        split="test",
        layout=Layout(instructions=f"The following are {kind} (with answers) about {topic}.\n\n"),
        protocol=protocol,
        about=f"MMLU, {topic}: {about}",
        licence="MIT",
        citation=CITATION,
        **fields,
    )


def letter_task(subject: str) -> Task:
    return mmlu_task(
        subject,
        "lm-eval",
        "multiple choice questions",
        "four choices, the letters are ranked.",
        doc=letters,
        ask=Choose(ties="first"),
        metrics=(accuracy,),
        shots=Shots(split="dev", order="first"),
        worked=(Worked(ROW, "Which planet is the largest?\nA. Mars\nB. Earth\nC. Jupiter\nD. Venus\nAnswer:", "C"),),
    )


def continuation_task(subject: str) -> Task:
    return mmlu_task(
        subject,
        "continuation",
        "questions",
        "four choices, their texts are ranked and not part of the prompt.",
        doc=continuation,
        ask=Choose(ties="first"),
        metrics=(accuracy, accuracy_per("chars")),
        shots=Shots(split="dev", order="first"),
        worked=(Worked(ROW, "Question: Which planet is the largest?\nAnswer:", "Jupiter"),),
    )


def helm_task(subject: str) -> Task:
    return mmlu_task(
        subject,
        "helm",
        "multiple choice questions",
        "one generated token must be the letter of the correct choice.",
        doc=joint,
        ask=Generate(max_tokens=1),
        metrics=(LETTER_MATCH,),
        shots=Shots(5, split="dev", order="balanced"),
        worked=(Worked(ROW, "Question:  Which planet is the largest? \nA. Mars\nB. Earth\nC. Jupiter\nD. Venus\nAnswer:", "C"),),
    )


ALL_SUBJECTS = tuple(subject for subjects in SUBJECTS.values() for subject in sorted(subjects))
LETTER_TASKS = {subject: letter_task(subject) for subject in ALL_SUBJECTS}
CONTINUATION_TASKS = {subject: continuation_task(subject) for subject in ALL_SUBJECTS}
HELM_TASKS = {subject: helm_task(subject) for subject in HELM_SUBJECTS}

TASKS = (*LETTER_TASKS.values(), *CONTINUATION_TASKS.values(), *HELM_TASKS.values())


def total(name: str, tasks: tuple[Task, ...], by_size: bool) -> Total:
    """The mean of the tasks' main metric: weighted by items if `by_size`, else unweighted."""
    weight = 1.0 if by_size else 1 / len(tasks)
    return Total(name, tuple(Term(task.full_name, task.metrics[0].name, weight) for task in tasks), by_size)


def family(name: str, protocol: str, tasks: Mapping[str, Task], about: str) -> Family:
    """All 57 subjects of a protocol, with the micro and macro averages and the micro average of each category."""
    whole = tuple(tasks.values())
    categories = (total(f"mmlu/{key}@{protocol}", tuple(tasks[s] for s in subjects), True) for key, subjects in SUBJECTS.items())
    totals = (total(f"mmlu/micro@{protocol}", whole, True), total(f"mmlu/macro@{protocol}", whole, False), *categories)
    return Family(name, whole, totals, about)


def category(key: str) -> Family:
    """One category as a family of its own, under the default protocol."""
    members = tuple(LETTER_TASKS[subject] for subject in SUBJECTS[key])
    return Family(f"mmlu/{key}", members, (total(f"mmlu/{key}@lm-eval", members, True),), f"MMLU's {key.replace('_', ' ')} subjects.")


FAMILIES = (
    family("mmlu", "lm-eval", LETTER_TASKS, "Knowledge in 57 subjects; the letters are ranked. Reports usually give the micro average."),
    family("mmlu@continuation", "continuation", CONTINUATION_TASKS, "MMLU, ranking the texts of the choices instead of letters."),
    Family(
        "mmlu@helm",
        tuple(HELM_TASKS.values()),
        (total("mmlu/macro@helm", tuple(HELM_TASKS.values()), False),),
        "HELM's MMLU: five subjects, five few-shot examples, one generated letter; the macro average.",
    ),
    *(category(key) for key in SUBJECTS),
)
