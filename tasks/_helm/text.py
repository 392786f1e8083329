"""HELM's text classification, summarization, translation and language modelling scenarios."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from assay import Doc, Generate, Layout, Perplexity, Pooled, Shots, Task, hub
from assay.harness.metrics.likelihood import bits_per_byte, perplexity
from assay.harness.metrics.text import bleu, chrf, exact_match, quasi_exact_match, rouge, ter
from assay.tasks._helm.common import FIVE_SHOTS, Derived, DerivedSplit, ask_after, instructions, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.metric import Array, Codes

NEWLINE = ("\n",)
SENTIMENT = ("Negative", "Positive")
IMDB_CITATION = "Maas et al. 2011, Learning Word Vectors for Sentiment Analysis"


def imdb(row: Row) -> Doc:
    references = (SENTIMENT[row["label"]],) if row["label"] >= 0 else ()
    return Doc(ask_after(row["text"].strip(), "Passage", "Sentiment"), references=references, group=row.get("pair", ""))


REVIEWS = hub("stanfordnlp/imdb", "plain_text")
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

PAIRS = hub("local/imdb_contrast_sets", "default")
IMDB_CONTRAST = scenario(
    "imdb_contrast",
    rows=Derived({"test": DerivedSplit(((PAIRS, "test"),), both_versions), "train": DerivedSplit(((REVIEWS, "train"),))}),
    doc=imdb,
    ask=Generate(5, NEWLINE),
    metrics=(WORST_OF_PAIR, quasi_exact_match),
    split="test",
    shots=FIVE_SHOTS,
    worked=worked({"text": "A dull film.", "label": 0, "pair": "p"}, "Passage: A dull film.\nSentiment:", "Negative"),
    about="Film reviews and their contrast sets: the same review, minimally edited by an expert to reverse its sentiment.",
    licence="unstated; reviews of IMDb users",
    citation="Gardner et al. 2020, Evaluating Models' Local Decision Boundaries via Contrast Sets",
)

MATCHING = ("Structured_Beer", "Structured_iTunes-Amazon", "Structured_Fodors-Zagats", "Dirty_iTunes-Amazon", "Textual_Abt-Buy")


def described(entity: str) -> str:
    """`COL name VAL value ...` as HELM writes a row: `name: value. name: value`."""
    parts = [part.partition(" VAL ") for part in f" {entity}".split(" COL ") if part.strip()]
    return ". ".join(f"{name.strip()}: {value.strip()}".strip() for name, _, value in parts)


def matching(row: Row) -> Doc:
    left, right = described(row["left"]), described(row["right"])
    text = f"Product A is {left}. Product B is {right}. Are A and B the same?"
    return Doc(ask_after(text, "", "Answer"), references=("Yes" if row["label"] else "No",), inputs=(left, right))


def matching_task(dataset: str) -> Task:
    row = {"left": "COL name VAL Red Ale COL abv VAL 5 %", "right": "COL name VAL Red Ale COL abv VAL -", "label": 1}
    return scenario(
        f"entity_matching/{dataset}",
        rows=hub("local/er_magellan", dataset),
        doc=matching,
        ask=Generate(5, NEWLINE),
        metrics=(quasi_exact_match, exact_match),
        split="test",
        shots=FIVE_SHOTS,
        layout=Layout(instructions=instructions("Are Product A and Product B the same? Yes or No?")),
        worked=worked(
            row, "Product A is name: Red Ale. abv: 5 %. Product B is name: Red Ale. abv: -. Are A and B the same?\nAnswer:", "Yes"
        ),
        about="Do two product records describe the same product?",
        licence="Apache-2.0",
        citation="Konda et al. 2016, Magellan; Li et al. 2020, Ditto",
    )


def squeezed(text: str, words: int | None = None) -> str:
    return " ".join(text.split()[:words])


def xsum(row: Row) -> Doc:
    article = squeezed(row["document"], 512)
    prompt = f"###\nArticle: {article}\n\nSummarize the above article in 1 sentence.\n"
    return Doc(prompt, references=(squeezed(row["summary"]),), inputs=(article,))


SUMMARY = tuple(rouge(kind) for kind in ("rouge2", "rouge1", "rougeL", "rougeLsum"))
XSUM = scenario(
    "xsum",
    rows=hub("EdinburghNLP/xsum", "default"),
    doc=xsum,
    ask=Generate(64, ("###",)),
    metrics=SUMMARY,
    split="test",
    shots=Shots(0, split="train", order="balanced"),
    layout=Layout(separator="\n"),
    worked=worked(
        {"document": "Rain fell\nall day.", "summary": "It rained.", "id": "1"},
        "###\nArticle: Rain fell all day.\n\nSummarize the above article in 1 sentence.\n",
        "It rained.",
    ),
    about="A news article in one sentence. HELM uses five training articles (--shots 5) and temperature 0.3; here greedy.",
    licence="BBC texts; research use",
    citation="Narayan et al. 2018, Don't Give Me the Details, Just the Summary!",
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
    text = f"###\nDialogue: {row['dialogue'].strip()}\n\nSummarize the above dialogue in 1 sentence.\n"
    summaries = row["summaries"] if "summaries" in row else (row["summary"],)
    return Doc(text, references=tuple(squeezed(summary) for summary in summaries))


DIALOGUES = hub("knkarthick/dialogsum", "default")
DIALOGSUM = scenario(
    "dialogsum",
    rows=Derived({split: DerivedSplit(((DIALOGUES, split),), one_per_dialogue) for split in ("validation", "test")}),
    doc=dialogsum,
    ask=Generate(64, ("###",)),
    metrics=SUMMARY,
    split="test",
    shots=Shots(2, split="validation"),
    layout=Layout(separator="\n"),
    worked=worked(
        {"id": "test_0", "dialogue": "#Person1#: Tea?\n#Person2#: Please.", "summaries": ["#Person2# wants tea.", "Tea is offered."]},
        "###\nDialogue: #Person1#: Tea?\n#Person2#: Please.\n\nSummarize the above dialogue in 1 sentence.\n",
        "#Person2# wants tea.",
    ),
    about="A conversation in one sentence, in HELM's summarization format, best of three references. Not a HELM data set.",
    licence="CC BY-NC-SA 4.0",
    citation="Chen et al. 2021, DialogSum: A Real-Life Scenario Dialogue Summarization Dataset",
)

LANGUAGES = {
    "fra_Latn": "French",
    "deu_Latn": "German",
    "spa_Latn": "Spanish",
    "ita_Latn": "Italian",
    "por_Latn": "Portuguese",
    "nld_Latn": "Dutch",
    "ces_Latn": "Czech",
    "pol_Latn": "Polish",
    "rus_Cyrl": "Russian",
    "zho_Hans": "Chinese",
    "jpn_Jpan": "Japanese",
    "hin_Deva": "Hindi",
    "arb_Arab": "Arabic",
    "swh_Latn": "Swahili",
    "fin_Latn": "Finnish",
    "tur_Latn": "Turkish",
    "vie_Latn": "Vietnamese",
    "eng_Latn": "English",
    "en": "English",
    "de": "German",
    "fr": "French",
}
TOKENIZERS = {"zho_Hans": "zh", "jpn_Jpan": "char"}
"""BLEU's tokenizer for languages without spaces. Japanese is split by character, since MeCab would be another dependency."""


def translation(source: str, target: str, row: Row) -> Doc:
    return Doc(f"{LANGUAGES[source]}: {row[source].strip()}\n{LANGUAGES[target]}:", references=(row[target].strip(),))


def aligned(source: str, target: str, sources: Sequence[Row], targets: Sequence[Row]) -> Iterable[Row]:
    """Rows of two languages joined by their id."""
    other = {row["id"]: row["sentence"] for row in targets}
    return ({source: row["sentence"], target: other[row["id"]]} for row in sources)


def translation_task(name: str, source: str, target: str, **fields: object) -> Task:
    from_language, to_language = LANGUAGES[source], LANGUAGES[target]
    return scenario(
        f"{name}/{source}-{target}",
        version=2,
        doc=functools.partial(translation, source, target),
        ask=Generate(100, ("\n\n",)),
        metrics=(bleu(TOKENIZERS.get(target, "13a")), chrf(), ter()) if target not in TOKENIZERS else (bleu(TOKENIZERS[target]), chrf()),
        layout=Layout(instructions=f"Translate the following sentences from {from_language} to {to_language}.\n"),
        worked=worked({source: "abc", target: "xyz"}, f"{from_language}: abc\n{to_language}:", "xyz"),
        about=f"{from_language} to {to_language}, one few-shot example, in the format of HELM's WMT 14 scenario.",
        **fields,
    )


def flores_task(source: str, target: str) -> Task:
    join = functools.partial(aligned, source, target)
    parts = {split: tuple((hub("facebook/flores", language), split) for language in (source, target)) for split in ("dev", "devtest")}
    return translation_task(
        "flores",
        source,
        target,
        rows=Derived({split: DerivedSplit(found, join) for split, found in parts.items()}),
        split="devtest",
        shots=Shots(1, split="dev"),
        licence="CC BY-SA 4.0",
        citation="NLLB Team 2022, No Language Left Behind; Goyal et al. 2022, FLORES-101",
    )


FLORES = tuple(language for language in LANGUAGES if "_" in language and language != "eng_Latn")
FLORES_TASKS = (
    *(flores_task(language, "eng_Latn") for language in FLORES),
    *(flores_task("eng_Latn", language) for language in FLORES),
)
MULTI30K_TASKS = tuple(
    translation_task(
        "multi30k",
        source,
        target,
        rows=hub("bentrevett/multi30k", "default"),
        split="test",
        shots=Shots(1, split="train"),
        licence="CC BY-NC-SA 4.0",
        citation="Elliott et al. 2016, Multi30K: Multilingual English-German Image Descriptions",
    )
    for source, target in (("en", "de"), ("de", "en"), ("en", "fr"), ("fr", "en"))
)


def whole_text(column: str, row: Row) -> Doc:
    return Doc("", references=(row[column],))


def language_modelling(name: str, column: str, **fields: object) -> Task:
    return scenario(
        f"language_modelling/{name}",
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
        rows=hub("EdinburghNLP/xsum", "default"),
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
        rows=hub("facebook/flores", "eng_Latn"),
        split="devtest",
        about="Bits per byte of English sentences from news, travel guides and encyclopedias (FLORES-200).",
        licence="CC BY-SA 4.0",
        citation="NLLB Team 2022",
    ),
)
MATCHING_TASKS = tuple(matching_task(dataset) for dataset in MATCHING)
TEXT_TASKS: tuple[Task, ...] = (
    IMDB,
    IMDB_CONTRAST,
    *MATCHING_TASKS,
    XSUM,
    DIALOGSUM,
    *FLORES_TASKS,
    *MULTI30K_TASKS,
    *MODELLING_TASKS,
)
