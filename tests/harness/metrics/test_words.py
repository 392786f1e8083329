from __future__ import annotations

import pytest

from assay import Completion, Doc
from assay.harness.errors import AssayError
from assay.harness.metrics.text import bleu, f1_words, quasi_exact_match, rouge, ter
from assay.harness.metrics.words import splitter, words

RUSSIAN, CHINESE, HINDI = "Кошка спала на крыше", "我喜欢这只猫", "बिल्ली छत पर सो रही थी"


def test_words_of_any_script() -> None:
    assert words("Кошка спала, на 2 крыше!") == ["кошка", "спала", "на", "2", "крыше"]
    assert words("नमस्ते दुनिया।") == ["नमस्ते", "दुनिया"], "vowel signs belong to their word"
    assert words("猫が好き") == ["猫", "が", "好", "き"]
    assert words("ＡＢＣ") == words("abc") == ["abc"], "compatibility forms"
    assert words(" \u0301 -- ") == []
    assert splitter("zh").tokenize("我爱你 ABC。") == ["我", "爱", "你", "abc"]


@pytest.mark.parametrize("text", [RUSSIAN, CHINESE, HINDI])
def test_rouge_of_equal_texts_is_1_with_the_unicode_tokenizer_and_a_run_is_warned_of_the_default(text: str) -> None:
    doc = Doc("q", references=(text,))
    default, own = rouge("rougeL"), rouge("rougeL", tokenizer="unicode")
    assert default.measure(doc, Completion(text)) == (0.0,) and own.measure(doc, Completion(text)) == (1.0,)
    assert default.unmeasurable is not None and 'tokenizer="unicode"' in default.unmeasurable(doc)
    assert own.unmeasurable is None
    assert own.signature == f"{rouge('rougeL', stemmer=False).signature}|tok:unicode"


def test_latin_texts_are_no_reason_for_a_warning() -> None:
    for metric in (rouge("rouge1"), bleu(), ter(), f1_words, quasi_exact_match):
        assert metric.unmeasurable is not None
        assert metric.unmeasurable(Doc("q", references=("Élan vital à l'été 2014",))) == ""
        assert metric.unmeasurable(Doc("q", references=("", "猫")[:1])) == ""


def test_scripts_without_spaces_need_a_tokenizer_for_bleu_and_ter() -> None:
    doc = Doc("q", references=(CHINESE,))
    for metric in (bleu(), bleu("intl"), ter(), f1_words):
        assert metric.unmeasurable is not None and "spaces" in metric.unmeasurable(doc)
    assert bleu("zh").unmeasurable is None and ter(asian=True).unmeasurable is None
    edits = ter(asian=True).measure(doc, Completion("我喜欢那只猫"))
    assert edits == (1.0, 6.0) and ter().measure(doc, Completion("我喜欢那只猫")) == (1.0, 1.0)
    assert "asian:yes" in ter(asian=True).signature


def test_references_that_normalise_to_nothing_are_named() -> None:
    for metric in (f1_words, quasi_exact_match):
        assert metric.unmeasurable is not None and "articles" in metric.unmeasurable(Doc("q", references=("The", "?")))
        assert metric.unmeasurable(Doc("q", references=("The", "cat"))) == "", "one reference can be matched"


def test_unknown_and_missing_tokenizers_are_refused() -> None:
    with pytest.raises(AssayError, match="unknown tokenizer 'klingon'"):
        rouge("rouge1", tokenizer="klingon")  # type: ignore[arg-type]
