"""Translation in HELM's format (one few-shot example): FLORES-200, Multi30k, and WMT 14 with HELM's metric."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from assay import AssayError, Completion, Doc, Generate, Layout, Metric, Shots, Task, hub
from assay.harness.metrics.text import best, bleu, chrf, f1_words, rouge, ter
from assay.tasks._helm.common import FORMAT, Derived, DerivedSplit, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row

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
    "cs": "Czech",
    "de": "German",
    "fr": "French",
    "hi": "Hindi",
    "ru": "Russian",
}
TOKENIZERS = {"zho_Hans": "zh", "jpn_Jpan": "char"}
"""BLEU's tokenizer for languages without spaces. Japanese is split by character, since MeCab would be another dependency."""


def translation(source: str, target: str, row: Row) -> Doc:
    text = row[source].strip()
    return Doc(f"{LANGUAGES[source]}: {text}\n{LANGUAGES[target]}:", references=(row[target].strip(),), inputs=(text,))


def aligned(source: str, target: str, sources: Sequence[Row], targets: Sequence[Row]) -> Iterable[Row]:
    """Rows of two languages joined by their id."""
    other = {row["id"]: row["sentence"] for row in targets}
    return ({source: row["sentence"], target: other[row["id"]]} for row in sources)


def translation_task(name: str, source: str, target: str, **fields: object) -> Task:
    from_language, to_language = LANGUAGES[source], LANGUAGES[target]
    return scenario(
        f"{name}/{source}-{target}",
        protocol=FORMAT,
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


def tokens(text: str) -> Any:
    """NLTK's tokens of a text. Raises AssayError where its sentence splitter is not installed."""
    from nltk.tokenize import word_tokenize

    try:
        return word_tokenize(text)
    except LookupError:
        what = "HELM's bleu_4 splits sentences with NLTK's punkt, which is not installed"
        raise AssayError(what, do="python -m nltk.downloader punkt_tab") from None


def four_grams(gold: str, text: str) -> float:
    from nltk.translate.bleu_score import sentence_bleu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of texts without common 4-grams
        return float(sentence_bleu([tokens(gold)], tokens(text.strip()), weights=(0, 0, 0, 1)))


def needs_splitter(doc: Doc) -> str:
    tokens("")
    return ""


bleu_4: Metric[Completion] = Metric(
    "bleu_4", best(four_grams), reads=Completion, signature="helm|nltk|4-grams", unmeasurable=needs_splitter
)
"""HELM's bleu_4: precision of 4-grams alone with the brevity penalty, per sentence, averaged over items."""


def wmt_14(source: str, target: str, row: Row) -> Doc:
    return translation(source, target, row["translation"])


def wmt_14_task(source: str) -> Task:
    language = LANGUAGES[source]
    return scenario(
        f"wmt_14/{source}-en",
        protocol=FORMAT,
        rows=hub("wmt/wmt14", f"{source}-en"),
        doc=functools.partial(wmt_14, source, "en"),
        ask=Generate(100, ("\n\n",)),
        metrics=(bleu_4, f1_words, rouge("rougeL"), bleu()),
        split="test",
        shots=Shots(1, split="validation", order="balanced"),
        layout=Layout(instructions=f"Translate the following sentences from {language} to English.\n"),
        worked=worked({"translation": {source: "abc", "en": "xyz"}}, f"{language}: abc\nEnglish:", "xyz"),
        about=f"{language} to English. The few-shot example is a validation row; HELM's is a train row (of up to 40 million).",
        licence="news texts; research use",
        citation="Bojar et al. 2014, Findings of the 2014 Workshop on Statistical Machine Translation",
    )


WMT_14_TASKS = tuple(wmt_14_task(source) for source in ("cs", "de", "fr", "hi", "ru"))
TRANSLATION_TASKS: tuple[Task, ...] = (*FLORES_TASKS, *MULTI30K_TASKS, *WMT_14_TASKS)
