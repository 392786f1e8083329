"""HELM's question answering and reasoning scenarios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from assay import Choose, Doc, Generate, Layout, Shots, Task, accuracy, hub, inline
from assay.harness.metrics.calibration import calibration
from assay.harness.metrics.text import exact_match, exact_match_indicator, f1_words, final_number, numeric_match, quasi_exact_match
from assay.tasks._helm.common import (
    FIVE_SHOTS,
    FORMAT,
    ONE_TOKEN,
    Derived,
    DerivedSplit,
    ask_after,
    instructions,
    joint_doc,
    letter_match,
    letter_quasi_match,
    passage_question,
    scenario,
    worked,
)
from assay.tasks._helm.math import math_equivalent, math_tolerant

if TYPE_CHECKING:
    from assay.harness.task.doc import Row

NQ_OPEN_REVISION = "5dd9790a83002ad084ddeb7c420dc716852c6f28"
MATH_REVISION = "21a5633873b6a120296cce3e2df9d5550074f4a3"
MATH_500_REVISION = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
MATCHES = (quasi_exact_match, exact_match, f1_words)
NEWLINE = ("\n",)


def boolq(row: Row) -> Doc:
    question = row["question"].strip().capitalize().removesuffix("?")
    return passage_question(row["passage"], f"{question}?", ("Yes" if row["answer"] else "No",), cluster=row["passage"])


BOOLQ = scenario(
    "boolq",
    rows=hub("google/boolq", revision="35b264d03638db9f4ce671b711558bf7ff0f80d5"),
    doc=boolq,
    ask=Generate(5, NEWLINE),
    metrics=MATCHES,
    split="validation",
    version=2,
    shots=FIVE_SHOTS,
    worked=worked(
        {"question": "do foxes live in Iceland", "passage": "The arctic fox is native to Iceland.", "answer": True},
        "Passage: The arctic fox is native to Iceland.\nQuestion: Do foxes live in iceland?\nAnswer:",
        "Yes",
    ),
    about="Yes/no questions about a paragraph, answered by generating Yes or No.",
    licence="CC BY-SA 3.0",
    citation="Clark et al. 2019, BoolQ: Exploring the Surprising Difficulty of Natural Yes/No Questions",
)


def natural_question(row: Row) -> Doc:
    question = row["question"].capitalize()
    if not question.endswith("?"):
        question += "?"
    return Doc(ask_after(question, "Question", "Answer"), references=tuple(dict.fromkeys(row["answer"])), inputs=(question,))


OWN_QUESTIONS = (
    {"question": "what is the largest ocean on earth", "answer": ["Pacific Ocean"]},
    {"question": "who wrote the play romeo and juliet", "answer": ["William Shakespeare"]},
    {"question": "how many legs does a spider have", "answer": ["eight"]},
    {"question": "what is the capital city of france", "answer": ["Paris"]},
    {"question": "which metal has the chemical symbol fe", "answer": ["iron"]},
)
"""Few-shot examples written by us: they only show the format of an answer, so the train split is not needed."""

NQ_OPEN = scenario(
    "nq_open",
    protocol=FORMAT,
    rows=Derived(
        {
            "validation": DerivedSplit(((hub("google-research-datasets/nq_open", "nq_open", revision=NQ_OPEN_REVISION), "validation"),)),
            "exemplars": DerivedSplit(((inline(exemplars=OWN_QUESTIONS), "exemplars"),)),
        }
    ),
    doc=natural_question,
    ask=Generate(300, NEWLINE),
    metrics=(f1_words, quasi_exact_match, exact_match),
    split="validation",
    shots=Shots(5, split="exemplars", order="first"),
    worked=worked(
        {"question": "who wrote the play faust", "answer": ["Goethe", "Johann Wolfgang von Goethe"]},
        "Question: Who wrote the play faust?\nAnswer:",
        "Goethe",
    ),
    about="Natural Questions, closed book, in HELM's format, with NQ-open's rows and few-shot examples of our own. HELM's own is "
    "helm/natural_qa/closedbook.",
    licence="CC BY-SA 3.0",
    citation="Kwiatkowski et al. 2019, Natural Questions; Lee et al. 2019",
)


def sentence(text: str) -> str:
    return text.strip() if text.strip().endswith(".") else text.strip() + "."


def truthfulqa(row: Row) -> Doc:
    right = sentence(row["best_answer"])
    choices = [*(sentence(wrong) for wrong in row["incorrect_answers"] if wrong.strip()), right]
    turn = ord(right[0]) % len(choices)  # HELM spreads the correct answer over the letters this way
    choices = choices[turn:] + choices[:turn]
    return joint_doc(row["question"].strip(), "Question", tuple(choices), choices.index(right))


def first_fifth(rows: Sequence[Row]) -> Iterable[Row]:
    return rows[: int(len(rows) * 0.2)]


def after_fifth(rows: Sequence[Row]) -> Iterable[Row]:
    return rows[int(len(rows) * 0.2) :]


QUESTIONS = (hub("truthfulqa/truthful_qa", "generation", revision="741b8276f2d1982aa3d5b832d3ee81ed3b896490"), "validation")
TRUTHFULQA = scenario(
    "truthfulqa",
    rows=Derived({"train": DerivedSplit((QUESTIONS,), first_fifth), "validation": DerivedSplit((QUESTIONS,), after_fifth)}),
    doc=truthfulqa,
    ask=ONE_TOKEN,
    metrics=(letter_match,),
    split="validation",
    shots=FIVE_SHOTS,
    worked=worked(
        {
            "type": "Adversarial",
            "category": "Myths",
            "question": "Can bulls see red?",
            "best_answer": "Bulls do not see the colour red",
            "correct_answers": ["No"],
            "incorrect_answers": ["Red makes bulls angry.", "Bulls see only red"],
            "source": "",
        },
        "Question: Can bulls see red?\nA. Red makes bulls angry.\nB. Bulls see only red.\nC. Bulls do not see the colour red.\nAnswer:",
        "C",
    ),
    about="Questions that invite a common misconception; the letter of the true answer is generated (HELM's mc_single).",
    licence="Apache-2.0",
    citation="Lin et al. 2022, TruthfulQA: Measuring How Models Mimic Human Falsehoods",
)


def openbook_choices(row: Row) -> tuple[str, ...]:
    return tuple(row["choices"]["text"])


def openbook_letters(row: Row) -> Doc:
    return joint_doc(row["question_stem"], "Question", openbook_choices(row), row["choices"]["label"].index(row["answerKey"]))


def openbook_separate(row: Row) -> Doc:
    return Doc(row["question_stem"].rstrip(), choices=openbook_choices(row), gold=row["choices"]["label"].index(row["answerKey"]))


OPENBOOK_ROW = {
    "id": "0-1",
    "question_stem": "A magnet will pull",
    "choices": {"text": ["a cork", "an iron nail", "a feather", "a glass bead"], "label": ["A", "B", "C", "D"]},
    "answerKey": "B",
}
OPENBOOKQA = scenario(
    "openbookqa",
    rows=hub("allenai/openbookqa", "main", revision="388097ea7776314e93a529163e0fea805b8a6454"),
    doc=openbook_letters,
    ask=ONE_TOKEN,
    metrics=(letter_match,),
    split="test",
    shots=FIVE_SHOTS,
    layout=Layout(instructions=instructions("The following are multiple choice questions (with answers) about common sense.")),
    worked=worked(OPENBOOK_ROW, "Question: A magnet will pull\nA. a cork\nB. an iron nail\nC. a feather\nD. a glass bead\nAnswer:", "B"),
    about="Elementary science questions with four choices, answered by letter (HELM Lite).",
    licence="Apache-2.0",
    citation="Mihaylov et al. 2018, Can a Suit of Armor Conduct Electricity?",
)
CALIBRATED = Choose(calibrate="Answer:", ties="first")
OPENBOOKQA_CLASSIC = scenario(
    "openbookqa",
    protocol="helm-classic",
    rows=hub("allenai/openbookqa", "main", revision="388097ea7776314e93a529163e0fea805b8a6454"),
    doc=openbook_separate,
    ask=CALIBRATED,
    metrics=(accuracy, *calibration(CALIBRATED)),
    split="test",
    worked=worked(OPENBOOK_ROW, "A magnet will pull", "an iron nail"),
    about="The same questions, the choices ranked by log P(choice | question) - log P(choice | 'Answer:') (HELM Classic).",
    licence=OPENBOOKQA.licence,
    citation=OPENBOOKQA.citation,
)


def med_qa(row: Row) -> Doc:
    """Some answers end in a stray quotation mark, which HELM drops."""
    letters = tuple(row["options"])
    options = tuple(text.rstrip('"').rstrip() for text in row["options"].values())
    return joint_doc(row["question"], "Question", options, letters.index(row["answer_idx"]))


MED_QA = scenario(
    "med_qa",
    rows=hub("GBaker/MedQA-USMLE-4-options", revision="0fb93dd23a7339b6dcd27e241cb9b5eca62d4d18"),
    doc=med_qa,
    ask=ONE_TOKEN,
    metrics=(letter_quasi_match, letter_match),
    split="test",
    shots=FIVE_SHOTS,
    layout=Layout(instructions=instructions("The following are multiple choice questions (with answers) about medicine.")),
    worked=worked(
        {"question": "Which vitamin prevents scurvy?", "options": {"A": "A", "B": "B12", "C": "C", "D": "K"}, "answer_idx": "C"},
        "Question: Which vitamin prevents scurvy?\nA. A\nB. B12\nC. C\nD. K\nAnswer:",
        "C",
    ),
    about="Questions of US medical licensing exams with four options, answered by letter.",
    licence="MIT",
    citation="Jin et al. 2020, What Disease does this Patient Have? A Large-scale Open Domain Question Answering Dataset",
)


def hellaswag(row: Row) -> Doc:
    """HELM puts two spaces before the endings where `ctx_b` is empty: the second is the first character of each choice."""
    second = row["ctx_b"][:1].upper() + row["ctx_b"][1:]
    text = f"{row['activity_label']}: {row['ctx_a']} {second}"
    prompt = text.rstrip()
    endings = tuple(text[len(prompt) :] + ending for ending in row["endings"])
    meta = {"double_space": True} if text != prompt else {}
    return Doc(prompt, choices=endings, gold=int(row["label"]) if row["label"] != "" else None, meta=meta, inputs=(prompt,))


BY_TOKENS = Choose(normalize="tokens", ties="first")
HELLASWAG = scenario(
    "hellaswag",
    rows=hub("Rowan/hellaswag", "default", revision="218ec52e09a7e7462a5400043bb9a69a41d06b76"),
    doc=hellaswag,
    ask=BY_TOKENS,
    metrics=(accuracy, *calibration(BY_TOKENS)),
    split="validation",
    version=2,
    worked=worked(
        {
            "activity_label": "Baking",
            "ctx_a": "A man mixes flour and water.",
            "ctx_b": "he",
            "endings": ["kneads the dough.", "swims away.", "paints it.", "sings to the moon."],
            "label": "0",
        },
        "Baking: A man mixes flour and water. He",
        "kneads the dough.",
    ),
    about="How does the scene continue? Four endings ranked by log-likelihood per token.",
    licence="MIT",
    citation="Zellers et al. 2019, HellaSwag: Can a Machine Really Finish Your Sentence?",
)


def gsm8k(row: Row) -> Doc:
    answer = row["answer"].replace("####", "The answer is").replace("\n", " ") + "."
    return Doc(f"Q: {row['question']}\nA:", references=(answer,), inputs=(row["question"],))


GSM8K = scenario(
    "gsm8k",
    rows=hub("openai/gsm8k", "main", revision="740312add88f781978c0658806c59bc2815b9866"),
    doc=gsm8k,
    ask=Generate(400, ("\n\n",)),
    metrics=(final_number, exact_match_indicator, numeric_match()),
    split="test",
    shots=FIVE_SHOTS,
    worked=worked(
        {"question": "Tom has 3 bags of 4 pears. How many pears?", "answer": "3 bags of 4 are <<3*4=12>>12 pears.\n#### 12"},
        "Q: Tom has 3 bags of 4 pears. How many pears?\nA:",
        "3 bags of 4 are <<3*4=12>>12 pears. The answer is 12.",
    ),
    about="Grade-school word problems with generated reasoning; the last number is scored. numeric_match compares it as a number, where "
    "HELM's pattern finds none in `18 is the result, as computed` and takes 18.00 for another number than 18.",
    licence="MIT",
    citation="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems",
)


def math(row: Row) -> Doc:
    return Doc(f"Problem: {row['problem']}\nAnswer:", references=(row["solution"],), inputs=(row["problem"],))


OWN_PROBLEMS = (
    {"problem": "What is $12 + 7 \\cdot 3$?", "solution": "The product is $21$, so the sum is $12 + 21 = \\boxed{33}$."},
    {
        "problem": "Solve $3x - 4 = 11$ for $x$.",
        "solution": "Adding $4$ gives $3x = 15$, and dividing by $3$ gives $x = \\boxed{5}$.",
    },
    {
        "problem": "A bag holds 3 red and 5 blue balls. What is the probability that a ball drawn at random is red?",
        "solution": "There are $8$ balls, of which $3$ are red, so it is $\\boxed{\\frac{3}{8}}$.",
    },
    {
        "problem": "Find the area of a right triangle with legs $6$ and $9$.",
        "solution": "The area is $\\frac{1}{2} \\cdot 6 \\cdot 9 = \\boxed{27}$.",
    },
)

COMPETITION = scenario(
    "math",
    doc=math,
    rows=hub("EleutherAI/hendrycks_math", "algebra", revision=MATH_REVISION),
    ask=Generate(400, ("###",)),
    metrics=(math_equivalent,),
    split="test",
    shots=Shots(8, order="balanced"),
    layout=Layout(
        instructions="Given a mathematics problem, determine the answer. Simplify your answer as much as possible.\n###\n",
        separator="\n###\n",
    ),
    worked=worked(
        {"problem": "What is $2^5$?", "solution": "It is $\\boxed{32}$.", "answer": "32", "subject": "Algebra", "level": 1},
        "Problem: What is $2^5$?\nAnswer:",
        "It is $\\boxed{32}$.",
    ),
    licence="MIT",
    citation="Hendrycks et al. 2021, Measuring Mathematical Problem Solving With the MATH Dataset",
)
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def math_task(subject: str, level: int) -> Task:
    return replace(
        COMPETITION,
        name=f"helm/math/{subject}/{level}",
        rows=hub("EleutherAI/hendrycks_math", subject, where={"level": f"Level {level}"}, revision=MATH_REVISION),
        about=f"Competition problems ({subject.replace('_', ' ')}, level {level}) with written reasoning; the last boxed answer is scored.",
    )


MATH_TASKS = tuple(math_task(subject, level) for subject in SUBJECTS for level in range(1, 6))
MATH = replace(
    COMPETITION,
    protocol=FORMAT,
    rows=Derived(
        {
            "test": DerivedSplit(((hub("HuggingFaceH4/MATH-500", "default", revision=MATH_500_REVISION), "test"),)),
            "exemplars": DerivedSplit(((inline(exemplars=OWN_PROBLEMS), "exemplars"),)),
        }
    ),
    shots=Shots(4, split="exemplars", order="first"),
    about="500 problems of MATH's test set in HELM's format with 4 examples of our own; HELM's own are helm/math/<subject>/<level>.",
    citation=f"{COMPETITION.citation}; Lightman et al. 2023",
)

GSM8K_TOLERANT = replace(
    GSM8K,
    protocol="tolerant",
    metrics=(numeric_match(),),
    about="HELM's prompts; the last number is compared as a number: 18.00 equals 18, a Unicode minus is a minus, a comma is no number.",
)
MATH_TOLERANT = replace(
    MATH,
    protocol="tolerant",
    metrics=(math_tolerant,),
    about="HELM's prompts; thousands separators, degree signs, units and a Unicode minus in the boxed answer do not make it wrong.",
)
TOLERANT_TASKS: tuple[Task, ...] = (GSM8K_TOLERANT, MATH_TOLERANT)

QA_TASKS: tuple[Task, ...] = (
    BOOLQ,
    NQ_OPEN,
    TRUTHFULQA,
    OPENBOOKQA,
    OPENBOOKQA_CLASSIC,
    MED_QA,
    HELLASWAG,
    GSM8K,
    MATH,
    *MATH_TASKS,
)
