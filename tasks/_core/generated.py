"""Tasks of the core suite with generated answers: GSM8K, MMLU-Pro and MATH-500."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from assay import Completion, Doc, Generate, Layout, Metric, Shots, Task, Worked, exact_match, hub
from assay.tasks._core.answers import extracted_match, flexible_match, strict_match, without_punctuation
from assay.tasks._helm.math import boxed, math_tolerant, same_answer

if TYPE_CHECKING:
    from assay.harness.task.doc import Row


def gsm8k(row: Row) -> Doc:
    return Doc(f"Question: {row['question']}\nAnswer:", references=(row["answer"],), inputs=(row["question"],))


GSM8K = Task(
    name="gsm8k",
    rows=hub("openai/gsm8k", "main", revision="740312add88f781978c0658806c59bc2815b9866"),
    doc=gsm8k,
    ask=Generate(256, ("Question:", "</s>", "<|im_end|>")),
    metrics=(strict_match, flexible_match),
    split="test",
    shots=Shots(5, "train"),
    protocol="lm-eval",
    worked=(
        Worked(
            {"question": "Tom has 3 bags of 4 pears. How many pears?", "answer": "3 bags of 4 are <<3*4=12>>12 pears.\n#### 12"},
            "Question: Tom has 3 bags of 4 pears. How many pears?\nAnswer:",
            "3 bags of 4 are <<3*4=12>>12 pears.\n#### 12",
        ),
    ),
    about="Grade-school word problems; the number after #### is scored, and the last number of the text. All items have the same five "
    "few-shot examples; lm-eval draws others for each item (lm-eval:gsm8k).",
    licence="MIT",
    citation="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems",
)

LETTERS = "ABCDEFGHIJ"
SUBJECTS = (
    *("biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law"),
    *("math", "other", "philosophy", "physics", "psychology"),
)


def letter(doc: Doc) -> str:
    return str(doc.meta["letter"])


answer_letter = extracted_match(
    "exact_match", r"answer is \(?([ABCDEFGHIJ])\)?", edit=without_punctuation, gold=letter, signature="first `answer is (X)`"
)
"""MMLU-Pro: the letter after the first "answer is", lm-eval's filter custom-extract."""


def mmlu_pro(row: Row) -> Doc:
    """Few-shot examples end with their written reasoning; scored rows have none, so their gold text is the sentence that ends it."""
    options = "".join(f"{name}. {text.strip()}\n" for name, text in zip(LETTERS, row["options"], strict=False))
    reasoning = row["cot_content"].replace("A: Let's think step by step. ", "") or f"The answer is ({row['answer']})."
    prompt = f"Question:\n{row['question']}\nOptions:\n{options}Answer: Let's think step by step."
    return Doc(prompt, references=(reasoning,), meta={"letter": row["answer"]}, inputs=(row["question"],))


def mmlu_pro_task(subject: str) -> Task:
    instruction = (
        f"The following are multiple choice questions (with answers) about {subject}. Think step by step and then finish your answer with "
        '"the answer is (X)" where X is the correct letter choice.\n'
    )
    return Task(
        name=f"mmlu_pro/{subject.replace(' ', '_')}",
        rows=hub("TIGER-Lab/MMLU-Pro", where={"category": subject}, revision="b189ec765aa7ed75c8acfea42df31fdae71f97be"),
        doc=mmlu_pro,
        ask=Generate(2048, ("Question:",)),
        metrics=(answer_letter,),
        split="test",
        shots=Shots(5, "validation", "first"),
        layout=Layout(instructions=instruction),
        protocol="lm-eval",
        worked=(
            Worked(
                {
                    "question": "Which planet is the largest?",
                    "options": ["Mars", " Earth ", "Jupiter"],
                    "answer": "C",
                    "cot_content": "A: Let's think step by step. Jupiter is larger than all others. The answer is (C).",
                    "category": subject,
                },
                "Question:\nWhich planet is the largest?\nOptions:\nA. Mars\nB. Earth\nC. Jupiter\nAnswer: Let's think step by step.",
                "Jupiter is larger than all others. The answer is (C).",
            ),
        ),
        about=f"MMLU-Pro, {subject}: up to ten options, with written reasoning.",
        licence="MIT",
        citation="Wang et al. 2024, MMLU-Pro: A More Robust and Challenging Multi-Task Language Understanding Benchmark, NeurIPS",
    )


MMLU_PRO_TASKS = tuple(map(mmlu_pro_task, SUBJECTS))


def between_dollars(text: str) -> str:
    """What stands between the first and the last dollar sign; the whole text where there are fewer than two."""
    first, last = text.find("$"), text.rfind("$")
    return text[first + 1 : last] if first < last else text


def dollars_measure(doc: Doc, output: Completion) -> tuple[float, ...]:
    return (float(same_answer(doc.references[0], between_dollars(output.text))),)


dollars_match: Metric[Completion] = replace(exact_match, measure=dollars_measure, signature="lm-eval|between $|hendrycks", rule=None)
"""MATH: equivalence of the text between the dollar signs and the boxed answer, as lm-eval's hendrycks_math."""


def math(row: Row) -> Doc:
    return Doc(f"Problem: {row['problem']}\nAnswer:", references=(boxed(row["solution"]),), inputs=(row["problem"],))


def math_question(row: Row) -> Doc:
    prompt = f"{row['problem']}\nReason step by step, and put your final answer within \\boxed{{}}."
    return Doc(prompt, references=(row["solution"],), inputs=(row["problem"],))


PROBLEM = {"problem": "What is $2^5$?", "solution": "It is $\\boxed{32}$.", "answer": "32", "subject": "Algebra", "level": 1}
MATH_500 = Task(
    name="math_500",
    rows=hub("HuggingFaceH4/MATH-500", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
    doc=math,
    ask=Generate(256, ("Problem:",)),
    metrics=(dollars_match,),
    split="test",
    protocol="lm-eval",
    worked=(Worked(PROBLEM, "Problem: What is $2^5$?\nAnswer:", "32"),),
    about="500 problems of MATH's test set; the text between dollar signs is scored (lm-eval's hendrycks_math500).",
    licence="MIT",
    citation="Hendrycks et al. 2021, Measuring Mathematical Problem Solving With the MATH Dataset; Lightman et al. 2023",
)
MATH_500_CHAT = replace(
    MATH_500,
    doc=math_question,
    ask=Generate(2048),
    metrics=(math_tolerant,),
    protocol="boxed",
    worked=(Worked(PROBLEM, "What is $2^5$?\nReason step by step, and put your final answer within \\boxed{}.", "It is $\\boxed{32}$."),),
    about="The same problems for chat models: run with --chat. The last boxed answer is scored.",
)
GENERATED_TASKS: tuple[Task, ...] = (GSM8K, *MMLU_PRO_TASKS, MATH_500, MATH_500_CHAT)
