"""HELM's summarization scenarios, XSum and CNN/DailyMail, and DialogSum in their format.

Each example begins with `###` after a blank line. HELM draws few-shot examples from training articles of 50 to 150 words and samples at
temperature 0.3. Its faithfulness metrics are not here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from assay import Doc, Generate, Layout, Shots, Task, hub
from assay.harness.metrics.text import rouge
from assay.tasks._helm.common import FIVE_SHOTS, FORMAT, Derived, DerivedSplit, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row

LONGEST = 512
"""Words of an article in a prompt."""


def squeezed(text: str, words: int | None = None) -> str:
    return " ".join(text.split()[:words])


def without_braces(text: str) -> str:
    """HELM drops a brace at either end of both texts."""
    return text.strip().removeprefix("{").removesuffix("}")


def article(row: Row, text: str, summary: str, sentences: int) -> Doc:
    """One article. `text` and `summary` name the row's columns."""
    shown = squeezed(row[text], LONGEST)
    end = f"{sentences} sentence{'s' if sentences > 1 else ''}"
    prompt = f"###\nArticle: {shown}\n\nSummarize the above article in {end}."
    return Doc(prompt, references=(squeezed(row[summary]),), inputs=(shown,))


def short(text: str) -> bool:
    return 50 <= len(squeezed(text, LONGEST).split()) <= 150


def fit_for_examples(rows: Sequence[Row]) -> Iterable[Row]:
    """XSum's training articles that HELM draws examples from: no video notices, no summaries that are short or close to the article."""
    for row in rows:
        text, summary = squeezed(row["document"], LONGEST), squeezed(row["summary"])
        notice = "Media playback is unsupported on your device" in text or "Last updated at" in text
        if short(text) and not notice and 10 < len(summary.split()) <= 0.2 * len(text.split()):
            yield row


def short_articles(rows: Sequence[Row]) -> Iterable[Row]:
    return (row for row in rows if short(row["article"]))


SUMMARY = tuple(rouge(kind, prepare=without_braces) for kind in ("rouge2", "rouge1", "rougeL", "rougeLsum"))
NEWS = hub("EdinburghNLP/xsum", "default", revision="refs/convert/parquet")
XSUM = scenario(
    "xsum",
    rows=Derived({"train": DerivedSplit(((NEWS, "train"),), fit_for_examples), "test": DerivedSplit(((NEWS, "test"),))}),
    doc=functools.partial(article, text="document", summary="summary", sentences=1),
    ask=Generate(64, ("###",), temperature=0.3),
    metrics=SUMMARY,
    split="test",
    version=2,
    shots=FIVE_SHOTS,
    layout=Layout(joint="\n"),
    worked=worked(
        {"document": "Rain fell\nall day.", "summary": "It rained.", "id": "1"},
        "###\nArticle: Rain fell all day.\n\nSummarize the above article in 1 sentence.",
        "It rained.",
    ),
    about="A news article in one sentence.",
    licence="BBC texts; research use",
    citation="Narayan et al. 2018, Don't Give Me the Details, Just the Summary!",
)
STORIES = hub("abisee/cnn_dailymail", "3.0.0", revision="96df5e686bee6baa90b8bee7c28b81fa3fa6223d")
CNN = scenario(
    "cnn_dailymail",
    rows=Derived({"train": DerivedSplit(((STORIES, "train"),), short_articles), "test": DerivedSplit(((STORIES, "test"),))}),
    doc=functools.partial(article, text="article", summary="highlights", sentences=3),
    ask=Generate(128, ("###",), temperature=0.3),
    metrics=SUMMARY,
    split="test",
    shots=FIVE_SHOTS,
    layout=Layout(joint="\n"),
    worked=worked(
        {"article": "Rain fell\nall day.", "highlights": "It rained.\nNobody left.", "id": "1"},
        "###\nArticle: Rain fell all day.\n\nSummarize the above article in 3 sentences.",
        "It rained. Nobody left.",
    ),
    about="A news article in three sentences.",
    licence="Apache-2.0",
    citation="See et al. 2017, Get To The Point: Summarization with Pointer-Generator Networks",
)


def one_per_dialogue(rows: Sequence[Row]) -> Iterable[Row]:
    """The three summaries of a test dialogue (ids test_<n>_<1..3>) as references of one item."""
    found: dict[str, dict[str, object]] = {}
    for row in rows:
        item = found.setdefault(row["dialogue"], {"id": row["id"].rsplit("_", 1)[0], "dialogue": row["dialogue"], "summaries": []})
        summaries = item["summaries"]
        assert isinstance(summaries, list)
        summaries.append(row["summary"])
    return found.values()


def dialogsum(row: Row) -> Doc:
    text = f"###\nDialogue: {row['dialogue'].strip()}\n\nSummarize the above dialogue in 1 sentence."
    summaries = row["summaries"] if "summaries" in row else (row["summary"],)
    return Doc(text, references=tuple(squeezed(summary) for summary in summaries), inputs=(row["dialogue"].strip(),))


DIALOGUES = hub("knkarthick/dialogsum", "default")
DIALOGSUM = scenario(
    "dialogsum",
    protocol=FORMAT,
    version=2,
    rows=Derived({split: DerivedSplit(((DIALOGUES, split),), one_per_dialogue) for split in ("validation", "test")}),
    doc=dialogsum,
    ask=Generate(64, ("###",)),
    metrics=SUMMARY,
    split="test",
    shots=Shots(2, split="validation"),
    layout=Layout(joint="\n"),
    worked=worked(
        {"id": "test_0", "dialogue": "#Person1#: Tea?\n#Person2#: Please.", "summaries": ["#Person2# wants tea.", "Tea is offered."]},
        "###\nDialogue: #Person1#: Tea?\n#Person2#: Please.\n\nSummarize the above dialogue in 1 sentence.",
        "#Person2# wants tea.",
    ),
    about="A conversation in one sentence, in HELM's summarization format, best of three references. Not a HELM data set.",
    licence="CC BY-NC-SA 4.0",
    citation="Chen et al. 2021, DialogSum: A Real-Life Scenario Dialogue Summarization Dataset",
)
SUMMARY_TASKS: tuple[Task, ...] = (XSUM, CNN, DIALOGSUM)
