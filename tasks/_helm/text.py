"""HELM's text classification and entity matching scenarios, and bits per byte of three texts."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from assay import Doc, Generate, Layout, Original, Perplexity, Pooled, Published, Task, hub
from assay.harness.metrics.likelihood import bits_per_byte, perplexity
from assay.harness.metrics.text import exact_match, quasi_exact_match
from assay.tasks._helm.common import FIVE_SHOTS, FORMAT, Derived, DerivedSplit, ask_after, instructions, passage_question, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.metric import Array, Codes

NEWLINE = ("\n",)
SENTIMENT = ("Negative", "Positive")
IMDB_CITATION = "Maas et al. 2011, Learning Word Vectors for Sentiment Analysis"


def imdb(row: Row) -> Doc:
    references = (SENTIMENT[row["label"]],) if row["label"] >= 0 else ()
    text = row["text"].strip()
    return Doc(ask_after(text, "Passage", "Sentiment"), references=references, group=row.get("pair", ""), inputs=(text,))


REVIEWS = hub("stanfordnlp/imdb", "plain_text", revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31")
IMDB = scenario(
    "imdb",
    rows=REVIEWS,
    doc=imdb,
    ask=Generate(5, NEWLINE),
    metrics=(quasi_exact_match, exact_match),
    split="test",
    shots=FIVE_SHOTS,
    worked=worked({"text": "Two hours well spent.", "label": 1}, "Passage: Two hours well spent.\nSentiment:", "Positive"),
    about="Is a film review positive or negative?",
    licence="reviews of IMDb users; research use",
    citation=IMDB_CITATION,
)


def both_versions(rows: Sequence[Row]) -> Iterable[Row]:
    """Each original review and its contrast by an expert, as one pair."""
    for row in rows:
        pair = hashlib.sha256(row["original"].encode()).hexdigest()[:16]
        yield {"text": row["original"], "label": row["original_label"], "pair": pair}
        yield {"text": row["contrast"], "label": row["contrast_label"], "pair": pair}


def worst_of_group(stats: Array, groups: Codes) -> Array:
    """The lowest score of each group, shape [groups, 1]."""
    low = np.full(int(groups.max()) + 1, np.inf)
    np.minimum.at(low, groups, stats[:, 0])
    return low[:, None]


def first_mean(means: Array) -> Array:
    return means[..., 0]


WORST_OF_PAIR = type(quasi_exact_match)(
    "quasi_exact_match_worst",
    quasi_exact_match.measure,
    Pooled(first_mean, worst_of_group),
    reads=quasi_exact_match.reads,
    signature="worst-of-group|" + quasi_exact_match.signature,
)
"""Share of pairs with both versions correct: HELM's worst case over the original and its contrast."""

CONTRASTS = "https://raw.githubusercontent.com/allenai/contrast-sets/e2b87316ba7b30093bc9ffbc340e6550cab79f67/IMDb/data"


def contrast_rows(contents: tuple[bytes, ...]) -> Iterable[Row]:
    """Pairs from the published files: the original reviews, and their contrasts in the same order."""
    tables = [list(csv.DictReader(io.StringIO(content.decode()), delimiter="\t")) for content in contents]
    for original, contrast in zip(*tables, strict=True):
        labels = [SENTIMENT.index(each["Sentiment"]) for each in (original, contrast)]
        yield {"original": original["Text"], "original_label": labels[0], "contrast": contrast["Text"], "contrast_label": labels[1]}


def contrast_files(split: str, original: str, contrast: str) -> tuple[Published, ...]:
    return Published(f"{CONTRASTS}/{split}_original.tsv", original), Published(f"{CONTRASTS}/{split}_contrast.tsv", contrast)


PAIRS = hub(
    "local/imdb_contrast_sets",
    original=Original(
        {
            "test": contrast_files(
                "test",
                "9dc78ddeb5cb6ff6060d24df33a83b6d29f9828994f4b1a5e0086f7e774713bd",
                "3bcb3bd41218b6a5d7bef7fe020a243919f3df0f12f55291b25ef8bbdbe04173",
            ),
            "validation": contrast_files(
                "dev",
                "349a8821bb8932d7ad236e4a6d3ed01fd9b99fdae1c7c6a1a9f3d442de4a4304",
                "ec5c984b43c045613dc00c4fd044f362e78351eef82bf07e4429583decaa0e92",
            ),
        },
        contrast_rows,
    ),
)
IMDB_CONTRAST = scenario(
    "imdb_contrast",
    rows=Derived({"test": DerivedSplit(((PAIRS, "test"),), both_versions), "train": DerivedSplit(((REVIEWS, "train"),))}),
    doc=imdb,
    ask=Generate(5, NEWLINE),
    metrics=(WORST_OF_PAIR, quasi_exact_match),
    split="test",
    shots=FIVE_SHOTS,
    worked=worked({"text": "A dull film.", "label": 0, "pair": "p"}, "Passage: A dull film.\nSentiment:", "Negative"),
    about="Film reviews and their contrast sets: the same review, minimally edited by an expert to reverse its sentiment. The pairs are on "
    "no hub: assay fetch helm/imdb_contrast --to DIR. In no suite.",
    licence="unstated; reviews of IMDb users",
    citation="Gardner et al. 2020, Evaluating Models' Local Decision Boundaries via Contrast Sets",
)

MATCHING = {
    "Structured_Beer": "Beer",
    "Structured_iTunes-Amazon": "iTunes_Amazon",
    "Structured_Fodors-Zagats": "Fodors_Zagats",
    "Dirty_iTunes-Amazon": "Dirty_iTunes_Amazon",
    "Textual_Abt-Buy": "Abt_Buy",
}
"""Our name of each data set, and that of HELM and the hub."""


NOT_A_NUMBER = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL"),
        *("NaN", "None", "n/a", "nan", "null"),
    )
)
"""What pandas, with which HELM reads the tables, takes for a missing value and HELM shows as `nan`."""


def described(entity: str) -> str:
    """`COL name VAL value ...` as HELM writes a row: `name: value. name: value`. A missing value is `nan`."""
    parts = [part.partition(" VAL") for part in f" {entity}".split(" COL ") if part.strip()]
    return ". ".join(f"{name.strip()}: {'nan' if value.strip() in NOT_A_NUMBER else value.strip()}" for name, _, value in parts)


def matching(row: Row) -> Doc:
    """A row of the hub, whose products are as HELM writes them, or of Ditto's files (`COL name VAL value`)."""
    left, right, same = (row["productA"], row["productB"], row["same"]) if "productA" in row else records(row)
    text = f"Product A is {left}. Product B is {right}. Are A and B the same?"
    return Doc(ask_after(text, "", "Answer"), references=("Yes" if int(same) else "No",), inputs=(text,))


def records(row: Row) -> tuple[str, str, int]:
    return described(row["left"]), described(row["right"]), row["label"]


def matching_task(dataset: str) -> Task:
    row = {"left": "COL name VAL Red Ale COL abv VAL 5 %", "right": "COL name VAL Red Ale COL abv VAL -", "label": 1}
    return scenario(
        f"entity_matching/{dataset}",
        rows=hub("lighteval/EntityMatching", MATCHING[dataset], former=("local/er_magellan", dataset)),
        doc=matching,
        ask=Generate(5, NEWLINE),
        metrics=(quasi_exact_match, exact_match),
        split="test",
        version=2,
        shots=FIVE_SHOTS,
        layout=Layout(instructions=instructions("Are Product A and Product B the same? Yes or No?")),
        worked=worked(
            row, "Product A is name: Red Ale. abv: 5 %. Product B is name: Red Ale. abv: -. Are A and B the same?\nAnswer:", "Yes"
        ),
        about="Do two product records describe the same product?",
        licence="Apache-2.0",
        citation="Konda et al. 2016, Magellan; Li et al. 2020, Ditto",
    )


DEMOGRAPHICS = ("all", "male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")


def civil_comment(row: Row) -> Doc:
    return passage_question(row["text"], "Is the passage above toxic?", (str(row["gold"]),))


def civil_comments_task(demographic: str) -> Task:
    return scenario(
        f"civil_comments/{demographic}",
        rows=hub("lighteval/civil_comments_helm", demographic),
        doc=civil_comment,
        ask=Generate(5, NEWLINE),
        metrics=(quasi_exact_match, exact_match),
        split="test",
        shots=FIVE_SHOTS,
        worked=worked(
            {"text": "What a fine road.", "gold": "False"},
            "Passage: What a fine road.\nQuestion: Is the passage above toxic?\nAnswer:",
            "False",
        ),
        about="Is a comment toxic?" + (f" (comments that mention: {demographic})" if demographic != "all" else ""),
        licence="CC0-1.0",
        citation="Borkan et al. 2019, Nuanced Metrics for Measuring Unintended Bias; Koh et al. 2021, WILDS",
    )


CIVIL_COMMENTS_TASKS = tuple(civil_comments_task(demographic) for demographic in DEMOGRAPHICS)


def whole_text(column: str, row: Row) -> Doc:
    """The text of a row. FLORES+ names it text, the older FLORES-200 sentence."""
    return Doc("", references=(row[column] if column in row else row["text"],))


def language_modelling(name: str, column: str, **fields: object) -> Task:
    return scenario(
        f"language_modelling/{name}",
        protocol=FORMAT,
        doc=functools.partial(whole_text, column),
        ask=Perplexity(),
        metrics=(bits_per_byte, perplexity),
        worked=worked({column: "Rain fell all day."}, "", "Rain fell all day."),
        **fields,
    )


def encyclopedia(rows: Sequence[Row]) -> Iterable[Row]:
    """The sentences that BOLD's prompts are taken from, one text per topic, without duplicates."""
    texts = (" ".join(row["wikipedia"]) for row in rows)
    return ({"text": text} for text in dict.fromkeys(texts) if text.strip())


MODELLING_TASKS = (
    language_modelling(
        "news",
        "document",
        rows=hub("EdinburghNLP/xsum", "default", revision="refs/convert/parquet"),
        split="test",
        about="Bits per byte of British news articles (XSum's documents), in HELM's language modelling format.",
        licence="BBC texts; research use",
        citation="Narayan et al. 2018",
    ),
    language_modelling(
        "encyclopedia",
        "text",
        version=2,
        rows=Derived({"test": DerivedSplit(((hub("AlexaAI/bold", "default"), "train"),), encyclopedia)}),
        split="test",
        about="Bits per byte of opening sentences of English Wikipedia articles (the sources of BOLD's prompts).",
        licence="CC BY-SA 4.0",
        citation="Dhamala et al. 2021",
    ),
    language_modelling(
        "sentences",
        "sentence",
        rows=hub("openlanguagedata/flores_plus", "eng_Latn", former=("facebook/flores", "eng_Latn")),
        split="devtest",
        about="Bits per byte of English sentences from news, travel guides and encyclopedias (FLORES-200).",
        licence="CC BY-SA 4.0",
        citation="NLLB Team 2022",
    ),
)
MATCHING_TASKS = tuple(matching_task(dataset) for dataset in MATCHING)
TEXT_TASKS: tuple[Task, ...] = (IMDB, *CIVIL_COMMENTS_TASKS, *MATCHING_TASKS, *MODELLING_TASKS)
