"""Translation in HELM's format (one few-shot example): FLORES-200, Multi30k, and WMT 14 with HELM's metric."""

from __future__ import annotations

import functools
import gzip
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from assay import AssayError, Completion, Doc, Generate, Layout, Metric, Original, Published, Shots, Task, hub
from assay.harness.metrics.text import best, bleu, chrf, f1_words, rouge, ter
from assay.tasks._helm.common import FORMAT, Derived, DerivedSplit, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.hub import Hub

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
    other = {row["id"]: sentence_of(row) for row in targets}
    return ({source: sentence_of(row), target: other[row["id"]]} for row in sources)


def sentence_of(row: Row) -> str:
    """The text of a row of FLORES+, or of the older FLORES-200."""
    return str(row["text"] if "text" in row else row["sentence"])


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


def flores(language: str) -> Hub:
    """FLORES+, which is gated and names Mandarin cmn_Hans; mirrors may hold the older FLORES-200."""
    return hub("openlanguagedata/flores_plus", "cmn_Hans" if language == "zho_Hans" else language, former=("facebook/flores", language))


def flores_task(source: str, target: str) -> Task:
    join = functools.partial(aligned, source, target)
    parts = {split: tuple((flores(language), split) for language in (source, target)) for split in ("dev", "devtest")}
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
IMAGES = "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
IMAGE_FILES = {
    "test": {
        "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    },
    "validation": {
        "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    },
    "train": {
        "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    },
}


def image_rows(contents: tuple[bytes, ...]) -> Iterable[Row]:
    """Rows from the published files, one per language, whose lines correspond."""
    lines = [[line.strip() for line in gzip.decompress(content).decode().rstrip("\n").split("\n")] for content in contents]
    return ({"en": english, "de": german, "fr": french} for english, german, french in zip(*lines, strict=True))


MULTI30K = hub(
    "local/multi30k",
    former=("bentrevett/multi30k", "default"),
    original=Original(
        {split: tuple(Published(f"{IMAGES}/{name}", sha256) for name, sha256 in files.items()) for split, files in IMAGE_FILES.items()},
        image_rows,
    ),
)
"""All three languages: the hub's bentrevett/multi30k has no French."""
MULTI30K_TASKS = tuple(
    translation_task(
        "multi30k",
        source,
        target,
        rows=MULTI30K,
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
        rows=hub("wmt/wmt14", f"{source}-en", revision="b199e406369ec1b7634206d3ded5ba45de2fe696"),
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
