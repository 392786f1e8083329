"""GLUE: nine tasks and a diagnostic set, with the official metrics and the GLUE score.

Prompts are those of lm-eval 0.4.13 (protocol "lm-eval"). It has neither STS-B nor AX; their prompts are our own (protocol "assay").
Test labels are hidden (except MRPC's), so the validation split is scored. A run on a hidden split stores predictions without scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from assay import Choose, Doc, Family, Metric, Regress, Task, Term, Total, Worked, hub
from assay.harness.metrics.choice import accuracy, f1, mcc
from assay.harness.metrics.regression import pearson, spearman

REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
CITATION = "Wang et al. 2019, GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding, ICLR"

NO_YES = ("no", "yes")
YES_NO = ("yes", "no")
TRUE_FALSE = ("True", "False")
FALSE_TRUE = ("False", "True")
TRUE_NEITHER_FALSE = ("True", "Neither", "False")
RANK = Choose(ties="first")  # numpy's argmax, as in lm-eval
Row = Mapping[str, Any]
Metrics = tuple[Metric[Any], ...]
data = partial(hub, "nyu-mll/glue", revision=REVISION)


def label(row: Row) -> int | None:
    """The row's class; None if it is hidden (-1)."""
    value = row.get("label")
    return None if value is None or value < 0 else int(value)


def classify(row: Row, prompt: str, choices: tuple[str, ...]) -> Doc:
    return Doc(prompt, choices=choices, gold=label(row), id=str(row["idx"]))


def cola(row: Row) -> Doc:
    return classify(row, f"{row['sentence']}\nQuestion: Does this sentence make sense?\nAnswer:", NO_YES)


def sst2(row: Row) -> Doc:
    return classify(row, f"{row['sentence']}\nQuestion: Is this sentence positive or negative?\nAnswer:", ("negative", "positive"))


def mrpc(row: Row) -> Doc:
    pair = f"Sentence 1: {row['sentence1']}\nSentence 2: {row['sentence2']}"
    return classify(row, f"{pair}\nQuestion: Do both sentences mean the same thing?\nAnswer:", NO_YES)


def qqp(row: Row) -> Doc:
    pair = f"Question 1: {row['question1']}\nQuestion 2: {row['question2']}"
    return classify(row, f"{pair}\nQuestion: Do both questions ask the same thing?\nAnswer:", NO_YES)


def stsb(row: Row) -> Doc:
    pair = f"Sentence 1: {row['sentence1']}\nSentence 2: {row['sentence2']}"
    prompt = f"{pair}\nQuestion: On a scale of 0 to 5, how similar are the two sentences?\nAnswer:"
    hidden = row.get("label") is None or row["label"] < 0
    return Doc(prompt, value=None if hidden else float(row["label"]), id=str(row["idx"]))


def nli(row: Row) -> Doc:
    hypothesis = row["hypothesis"].strip()
    stop = "" if hypothesis.endswith(".") else "."
    return classify(row, f"{row['premise']}\nQuestion: {hypothesis}{stop} True, False or Neither?\nAnswer:", TRUE_NEITHER_FALSE)


def qnli(row: Row) -> Doc:
    return classify(row, f"{row['question']}\n{row['sentence']}\nQuestion: Does this response answer the question?\nAnswer:", YES_NO)


def rte(row: Row) -> Doc:
    return classify(row, f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:", TRUE_FALSE)


def wnli(row: Row) -> Doc:
    """As RTE, but here label 0 is not_entailment."""
    return classify(row, f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:", FALSE_TRUE)


def task_of(family: str, source: Callable[[str], Any], name: str, doc: Callable[[Row], Doc], metrics: Metrics, **fields: Any) -> Task:
    """A task that ranks its choices on the validation split under lm-eval's prompt, unless `fields` say otherwise."""
    usual = {"ask": RANK, "split": "validation", "protocol": "lm-eval", "rows": source(name)}
    return Task(f"{family}/{name}", doc=doc, metrics=metrics, **{**usual, **fields})


member = partial(task_of, "glue", data)

COLA = member(
    "cola",
    cola,
    (mcc(), accuracy),
    worked=(
        Worked(
            {"sentence": "The gardener watered the roses.", "label": 1, "idx": 0},
            "The gardener watered the roses.\nQuestion: Does this sentence make sense?\nAnswer:",
            "yes",
        ),
        Worked(
            {"sentence": "The gardener watered roses the.", "label": 0, "idx": 1},
            "The gardener watered roses the.\nQuestion: Does this sentence make sense?\nAnswer:",
            "no",
        ),
    ),
    about="CoLA: is the sentence grammatical? Labels 0 unacceptable, 1 acceptable. Official metric: Matthews correlation.",
    licence="published examples, research use",
    citation="Warstadt et al. 2019, Neural Network Acceptability Judgments, TACL; " + CITATION,
)

SST2 = member(
    "sst2",
    sst2,
    (accuracy,),
    worked=(
        Worked(
            {"sentence": "a warm and witty little film ", "label": 1, "idx": 0},
            "a warm and witty little film \nQuestion: Is this sentence positive or negative?\nAnswer:",
            "positive",
        ),
        Worked(
            {"sentence": "a tired sequel ", "label": 0, "idx": 1},
            "a tired sequel \nQuestion: Is this sentence positive or negative?\nAnswer:",
            "negative",
        ),
    ),
    about="SST-2: is the film review's sentence positive? Labels 0 negative, 1 positive. Official metric: accuracy.",
    licence="unstated",
    citation="Socher et al. 2013, Recursive Deep Models for Semantic Compositionality, EMNLP; " + CITATION,
)

MRPC = member(
    "mrpc",
    mrpc,
    (accuracy, f1),
    worked=(
        Worked(
            {"sentence1": "Sales rose by 4 percent.", "sentence2": "Sales were up 4 percent.", "label": 1, "idx": 0},
            "Sentence 1: Sales rose by 4 percent.\nSentence 2: Sales were up 4 percent.\n"
            "Question: Do both sentences mean the same thing?\nAnswer:",
            "yes",
        ),
        Worked(
            {"sentence1": "Sales rose by 4 percent.", "sentence2": "The shop closed in May.", "label": 0, "idx": 1},
            "Sentence 1: Sales rose by 4 percent.\nSentence 2: The shop closed in May.\n"
            "Question: Do both sentences mean the same thing?\nAnswer:",
            "no",
        ),
    ),
    about="MRPC: is one sentence a paraphrase of the other? Labels 0 no, 1 yes. Official metrics: accuracy and F1 of label 1.",
    licence="Microsoft Shared Source Licence",
    citation="Dolan and Brockett 2005, Automatically Constructing a Corpus of Sentential Paraphrases, IWP; " + CITATION,
)

QQP = member(
    "qqp",
    qqp,
    (accuracy, f1),
    worked=(
        Worked(
            {"question1": "How do I boil an egg?", "question2": "What is the way to boil eggs?", "label": 1, "idx": 0},
            "Question 1: How do I boil an egg?\nQuestion 2: What is the way to boil eggs?\n"
            "Question: Do both questions ask the same thing?\nAnswer:",
            "yes",
        ),
        Worked(
            {"question1": "How do I boil an egg?", "question2": "Who laid the first egg?", "label": 0, "idx": 1},
            "Question 1: How do I boil an egg?\nQuestion 2: Who laid the first egg?\n"
            "Question: Do both questions ask the same thing?\nAnswer:",
            "no",
        ),
    ),
    about="QQP: do two Quora questions ask the same? Labels 0 no, 1 yes. Official metrics: accuracy and F1 of label 1.",
    licence="Quora's terms of service",
    citation="Iyer et al. 2017, First Quora Dataset Release: Question Pairs; " + CITATION,
)

STSB = member(
    "stsb",
    stsb,
    (pearson, spearman),
    ask=Regress(answers=("0", "1", "2", "3", "4", "5"), values=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0)),
    protocol="assay",
    worked=(
        Worked(
            {"sentence1": "A boy kicks a ball.", "sentence2": "A child kicks a ball.", "label": 3.8, "idx": 0},
            "Sentence 1: A boy kicks a ball.\nSentence 2: A child kicks a ball.\n"
            "Question: On a scale of 0 to 5, how similar are the two sentences?\nAnswer:",
            "3.8",
        ),
        Worked(
            {"sentence1": "A boy kicks a ball.", "sentence2": "Rain fell on Paris.", "label": 0.0, "idx": 1},
            "Sentence 1: A boy kicks a ball.\nSentence 2: Rain fell on Paris.\n"
            "Question: On a scale of 0 to 5, how similar are the two sentences?\nAnswer:",
            "0",
        ),
    ),
    about="STS-B: how similar are two sentences, 0 to 5? The estimate is the expected value over the answers 0..5 under the softmax of "
    "their log-likelihoods. Official metrics: Pearson and Spearman correlation. lm-eval has no STS-B.",
    licence="CC BY-SA 4.0 (scores; the texts' licences vary)",
    citation="Cer et al. 2017, SemEval-2017 Task 1: Semantic Textual Similarity, SemEval; " + CITATION,
)

MNLI = member(
    "mnli",
    nli,
    (accuracy,),
    rows=data("mnli", names={"validation": "validation_matched", "test": "test_matched"}),
    worked=(
        Worked(
            {"premise": "All the shops were shut by noon.", "hypothesis": "No shop was open at one ", "label": 0, "idx": 0},
            "All the shops were shut by noon.\nQuestion: No shop was open at one. True, False or Neither?\nAnswer:",
            "True",
        ),
        Worked(
            {"premise": "All the shops were shut by noon.", "hypothesis": "It was a Sunday.", "label": 1, "idx": 1},
            "All the shops were shut by noon.\nQuestion: It was a Sunday. True, False or Neither?\nAnswer:",
            "Neither",
        ),
        Worked(
            {"premise": "All the shops were shut by noon.", "hypothesis": "Shops stayed open until six.", "label": 2, "idx": 2},
            "All the shops were shut by noon.\nQuestion: Shops stayed open until six. True, False or Neither?\nAnswer:",
            "False",
        ),
    ),
    about="MNLI, matched genres: does the premise entail the hypothesis? Labels 0 entailment, 1 neutral, 2 contradiction. "
    "Official metric: accuracy, averaged with the mismatched genres in the GLUE score.",
    licence="OANC and others (varies by genre)",
    citation="Williams et al. 2018, A Broad-Coverage Challenge Corpus for Sentence Understanding through Inference, NAACL; " + CITATION,
)

MNLI_MISMATCHED = member(
    "mnli_mismatched",
    nli,
    (accuracy,),
    rows=data("mnli", names={"validation": "validation_mismatched", "test": "test_mismatched"}),
    worked=MNLI.worked,
    about="MNLI, mismatched genres (none of them in the train split). Labels and metric as in glue/mnli.",
    licence=MNLI.licence,
    citation=MNLI.citation,
)

QNLI = member(
    "qnli",
    qnli,
    (accuracy,),
    worked=(
        Worked(
            {"question": "Where does the river rise?", "sentence": "The river rises in the northern hills.", "label": 0, "idx": 0},
            "Where does the river rise?\nThe river rises in the northern hills.\n"
            "Question: Does this response answer the question?\nAnswer:",
            "yes",
        ),
        Worked(
            {"question": "Where does the river rise?", "sentence": "The mayor likes to fish.", "label": 1, "idx": 1},
            "Where does the river rise?\nThe mayor likes to fish.\nQuestion: Does this response answer the question?\nAnswer:",
            "no",
        ),
    ),
    about="QNLI: does the sentence hold the answer to the question? Labels 0 entailment (yes), 1 not. Official metric: accuracy.",
    licence="CC BY-SA 4.0",
    citation="Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text, EMNLP; " + CITATION,
)

RTE = member(
    "rte",
    rte,
    (accuracy,),
    worked=(
        Worked(
            {"sentence1": "Ada sold her red bicycle to Tom.", "sentence2": "Tom bought a bicycle.", "label": 0, "idx": 0},
            "Ada sold her red bicycle to Tom.\nQuestion: Tom bought a bicycle. True or False?\nAnswer:",
            "True",
        ),
        Worked(
            {"sentence1": "Ada sold her red bicycle to Tom.", "sentence2": "Tom bought a car.", "label": 1, "idx": 1},
            "Ada sold her red bicycle to Tom.\nQuestion: Tom bought a car. True or False?\nAnswer:",
            "False",
        ),
    ),
    about="RTE: does the first text entail the second? Labels 0 entailment, 1 not_entailment. Official metric: accuracy.",
    licence="research use",
    citation="Dagan et al. 2006, Bar Haim et al. 2006, Giampiccolo et al. 2007, Bentivogli et al. 2009 (RTE 1, 2, 3, 5); " + CITATION,
)

WNLI = member(
    "wnli",
    wnli,
    (accuracy,),
    worked=(
        Worked(
            {"sentence1": "The cup hit the tray and it broke.", "sentence2": "The cup broke.", "label": 1, "idx": 0},
            "The cup hit the tray and it broke.\nQuestion: The cup broke. True or False?\nAnswer:",
            "True",
        ),
        Worked(
            {"sentence1": "The cup hit the tray and it broke.", "sentence2": "The tray broke.", "label": 0, "idx": 1},
            "The cup hit the tray and it broke.\nQuestion: The tray broke. True or False?\nAnswer:",
            "False",
        ),
    ),
    about="WNLI: does the sentence with its pronoun replaced follow? Labels 0 not_entailment, 1 entailment. Official metric: accuracy. "
    "The validation split is adversarial: the majority class has 56 %, and patterns of the train split mislead.",
    licence="CC BY 4.0",
    citation="Levesque et al. 2012, The Winograd Schema Challenge, KR; " + CITATION,
)

AX = member(
    "ax",
    nli,
    (mcc(3), accuracy),
    split="test",
    protocol="assay",
    worked=(
        Worked(
            {"premise": "Not every door was locked.", "hypothesis": "Some door was open.", "label": 0, "idx": 0},
            "Not every door was locked.\nQuestion: Some door was open. True, False or Neither?\nAnswer:",
            "True",
        ),
        Worked(
            {"premise": "No door was locked.", "hypothesis": "A door was locked.", "label": 2, "idx": 1},
            "No door was locked.\nQuestion: A door was locked. True, False or Neither?\nAnswer:",
            "False",
        ),
    ),
    about="AX, GLUE's diagnostic set, under MNLI's prompt. The hub hides its labels, so runs store predictions only; rows with "
    "labels are scored by the three-class Matthews correlation. Not part of the GLUE score.",
    licence="as GLUE",
    citation=CITATION,
)

TASKS = (COLA, SST2, MRPC, STSB, QQP, MNLI, MNLI_MISMATCHED, QNLI, RTE, WNLI, AX)


def average(name: str, *members: tuple[tuple[Task, Metric[Any]], ...]) -> Total:
    """100 times the unweighted mean over members; each is itself the mean of its (task, metric) pairs."""
    terms = (Term(task.full_name, metric.name, 1 / len(members) / len(pairs)) for pairs in members for task, metric in pairs)
    return Total(name, tuple(terms), scale=100.0)


GLUE = average(
    "glue",
    ((COLA, COLA.metrics[0]),),
    ((SST2, accuracy),),
    ((MRPC, accuracy), (MRPC, f1)),
    ((STSB, pearson), (STSB, spearman)),
    ((QQP, accuracy), (QQP, f1)),
    ((MNLI, accuracy), (MNLI_MISMATCHED, accuracy)),
    ((QNLI, accuracy),),
    ((RTE, accuracy),),
    ((WNLI, accuracy),),
)

FAMILIES = (
    Family(
        "glue",
        TASKS,
        (GLUE,),
        about="Nine language understanding tasks. GLUE score: metrics averaged per task, MNLI over its two halves, then all nine.",
    ),
)
