"""HELM's reading comprehension: NarrativeQA, Natural Questions (closed book, and with the passage) and QuAC."""

from __future__ import annotations

import functools
import html
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assay import Doc, Generate, Task, hub
from assay.harness.metrics.text import exact_match, f1_words, quasi_exact_match, rouge
from assay.tasks._helm.common import FIVE_SHOTS, Derived, DerivedSplit, ask_after, passage_question, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row

NEWLINE = ("\n",)
MATCHES = (f1_words, exact_match, quasi_exact_match)
NQ_REVISION = "e8103d566bef4154c2c12b17c6095ec5275840cc"


def asked(question: str) -> str:
    return question if question.endswith("?") else f"{question}?"


def narrative_qa(row: Row) -> Doc:
    return passage_question(row["passage"].strip(), asked(row["question"].strip()), row["references"])


NARRATIVE_QA = scenario(
    "narrative_qa",
    rows=hub("lighteval/narrative_qa_helm"),
    doc=narrative_qa,
    ask=Generate(100, NEWLINE),
    metrics=(*MATCHES, rouge("rougeL")),
    split="test",
    shots=FIVE_SHOTS,
    worked=worked(
        {"passage": "A fisherman loses his ring in the sea.", "question": "What is lost", "references": ["A ring.", "his ring"]},
        "Passage: A fisherman loses his ring in the sea.\nQuestion: What is lost?\nAnswer:",
        "A ring.",
    ),
    about="A question about the summary of a book or film, one per summary; any of two answers.",
    licence="Apache-2.0",
    citation="Kočiský et al. 2018, The NarrativeQA Reading Comprehension Challenge",
)


def plain(page: bytes, start: int, end: int) -> str:
    """The text of a part of a web page, without tags."""
    text = page[start:end].replace(b"\xc2\xa0", b" ").decode()
    return re.sub("<([^>]*)>", "", html.unescape(text))


def answers_of(row: Row) -> tuple[list[str], list[str]]:
    """The short answers of all annotators, and for each the long answer around it."""
    page, short, long = row["document"]["html"].encode(), [], []
    annotations = row["annotations"]
    for paragraph, spans in zip(annotations["long_answer"], annotations["short_answers"], strict=True):
        for start, end in zip(spans["start_byte"], spans["end_byte"], strict=True):
            short.append(plain(page, start, end))
            long.append(plain(page, paragraph["start_byte"], paragraph["end_byte"]))
    return short, long


def with_answers(rows: Sequence[Row], split: str) -> Iterable[Row]:
    """HELM's split of the rows that have short answers: even ones for few-shot examples, with one answer; odd ones are scored.

    One short answer of each row is drawn with HELM's seed; its paragraph is the passage. (HELM counts even and odd rows in each of the
    five files of the data set, which the hub's copy does not separate.)
    """
    draw, count = random.Random(0), 0
    for row in rows:
        short, long = answers_of(row)
        if not short:
            continue
        place = draw.randint(0, len(short) - 1)
        train, count = count % 2 == 0, count + 1
        if train == (split == "train"):
            answers = short[place : place + 1] if train else short
            yield {"question": row["question"]["text"], "passage": long[place], "answers": answers}


def natural_qa(row: Row, passage: bool) -> Doc:
    question = asked(row["question"].capitalize())
    references = tuple(dict.fromkeys(row["answers"]))
    if not passage:
        return Doc(ask_after(question, "Question", "Answer"), references=references, inputs=(question,))
    text = f"Passage: {row['passage']}\n\nQuestion: {question}"
    return Doc(ask_after(text, "", "Answer"), references=references, inputs=(text,))


DEVELOPMENT = ((hub("google-research-datasets/natural_questions", "dev", revision=NQ_REVISION), "validation"),)
NATURAL_ROW = {"question": "who wrote the play faust", "passage": "Faust is a play by Goethe.", "answers": ["Goethe", "J. W. von Goethe"]}


def natural_qa_task(mode: str, prompt: str, about: str) -> Task:
    return scenario(
        f"natural_qa/{mode}",
        rows=Derived({split: DerivedSplit(DEVELOPMENT, functools.partial(with_answers, split=split)) for split in ("train", "validation")}),
        doc=functools.partial(natural_qa, passage=mode != "closedbook"),
        ask=Generate(300, NEWLINE),
        metrics=MATCHES,
        split="validation",
        shots=FIVE_SHOTS,
        worked=worked(NATURAL_ROW, prompt, "Goethe"),
        about=about,
        licence="CC BY-SA 3.0",
        citation="Kwiatkowski et al. 2019, Natural Questions: A Benchmark for Question Answering Research",
    )


NATURAL_QA_CLOSED = natural_qa_task(
    "closedbook", "Question: Who wrote the play faust?\nAnswer:", "A question from a search engine, answered from memory."
)
NATURAL_QA_OPEN = natural_qa_task(
    "openbook_longans",
    "Passage: Faust is a play by Goethe.\n\nQuestion: Who wrote the play faust?\nAnswer:",
    "A question from a search engine and the paragraph with its answer.",
)

REFUSALS = ("Not enough information", "Cannot answer", "Do not know")


def quac(row: Mapping[str, Any]) -> Doc:
    """The prompt of a row ends with the question; the data set leaves references empty where a row has fewer than others."""
    references = tuple(dict.fromkeys(text for text in row["references"] if text))
    if references == ("CANNOTANSWER",):
        references += REFUSALS
    return Doc(ask_after(row["prompt"], "", "Answer"), references=references, inputs=(row["prompt"],))


QUAC_PROMPT = (
    "Title: A lake\n\nBackground: A lake in the hills.\n\nSection: History\nPassage: It was dug in 1900 by miners.\n\n"
    "Question: When was it dug?\nAnswer: 1900\n\nQuestion: By whom?"
)
QUAC = scenario(
    "quac",
    rows=hub("lighteval/quac_helm"),
    doc=quac,
    ask=Generate(100, NEWLINE),
    metrics=MATCHES,
    split="validation",
    shots=FIVE_SHOTS,
    worked=worked({"prompt": QUAC_PROMPT, "references": ["miners", "by miners"]}, f"{QUAC_PROMPT}\nAnswer:", "miners"),
    about="The next question of a dialogue about a section of an encyclopedia; the answer may be that there is none.",
    licence="CC BY-SA 4.0",
    citation="Choi et al. 2018, QuAC: Question Answering in Context",
)

READING_TASKS: tuple[Task, ...] = (NARRATIVE_QA, NATURAL_QA_CLOSED, NATURAL_QA_OPEN, QUAC)
