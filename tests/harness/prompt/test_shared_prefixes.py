"""Texts that begin alike have the ids of their whole encoding. Run: pytest tests/harness/prompt/test_shared_prefixes.py"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from assay.harness.prompt import shared_prefixes
from assay.harness.prompt.shared_prefixes import cut_margin, encode_shared

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
STEPS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama3": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), BYTES]),
}
PIECES = (
    "the answer is",
    "'",
    "'re",
    "s",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "12345",
    "7",
    "é",
    "e\u0301",
    "日本",
    "...",
    "(A)",
    "<|end|>",
    "<x",
    "ing",
    "Q:",
)
WRONG = {
    "prefix space": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "metaspace": pre_tokenizers.Metaspace(),
    "look-behind": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"(?<=a)b|.+"), "isolated"), BYTES]),
    "removed": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(" "), "removed"), BYTES]),
}


def make(step: Any, nfc: bool = False, single_word: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = step, decoders.ByteLevel()
    backend.normalizer = normalizers.NFC() if nfc else None
    draw = random.Random(0)
    corpus = ["".join(draw.choices(PIECES, k=40)) for _ in range(50)]
    backend.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    backend.add_tokens([AddedToken("<|end|>", single_word=single_word), AddedToken("<x <y", lstrip=True, rstrip=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def whole_texts(inner: PreTrainedTokenizerFast) -> Callable[[Sequence[str]], list[tuple[int, ...]]]:
    return lambda texts: [tuple(ids) for ids in inner(list(texts), add_special_tokens=False)["input_ids"]] if texts else []


def texts(seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Prompts after two shared beginnings, and each with continuations."""
    draw = random.Random(seed)

    def text(most: int) -> str:
        return "".join(draw.choices(PIECES, k=draw.randint(1, most)))

    beginnings = [text(120), text(120)]
    contexts = [draw.choice(beginnings) + text(30) for _ in range(30)] + ["", beginnings[0]]
    return contexts, [(context, context + text(4)) for context in contexts for _ in range(3)]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("nfc", [False, True])
def test_the_ids_are_those_of_whole_texts(name: str, nfc: bool) -> None:
    inner = make(STEPS[name], nfc)
    whole = whole_texts(inner)
    margin = cut_margin(inner)
    assert margin is not None
    for seed in range(20):
        contexts, wholes = texts(seed)
        ids, tails = encode_shared(whole, inner, margin, contexts, wholes)
        assert [ids[text] for text in contexts] == whole(contexts)
        found = [ids[context][: tails[context, text].kept] + tails[context, text].ids for context, text in wholes]
        assert found == whole([text for _, text in wholes])
        assert sum(tail.kept > 0 for tail in tails.values()) > len(tails) / 2, "most texts are cut"


@pytest.mark.parametrize("name", WRONG)
def test_tokenizers_whose_words_depend_on_the_text_before_are_not_cut(name: str) -> None:
    assert cut_margin(make(WRONG[name])) is None


def test_added_tokens_that_must_be_words_are_not_cut() -> None:
    assert cut_margin(make(STEPS["gpt2"])) is not None
    assert cut_margin(make(STEPS["gpt2"], single_word=True)) is None


def test_a_tokenizer_that_must_not_be_cut_is_noticed_by_its_ids() -> None:
    inner = make(WRONG["prefix space"])
    whole = whole_texts(inner)
    contexts, wholes = texts(1)
    ids, _ = encode_shared(whole, inner, 40, contexts, wholes)
    assert [ids[text] for text in contexts] == whole(contexts)


def test_one_wrong_text_makes_all_be_encoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = make(STEPS["gpt2"])
    whole = whole_texts(inner)
    contexts, wholes = texts(1)
    monkeypatch.setattr(shared_prefixes, "OVERLAP", 0)
    monkeypatch.setattr(shared_prefixes, "last_cut", lambda known, most: 3 if len(known.cuts) > 3 else None)
    monkeypatch.setattr(shared_prefixes, "cuts_of", lambda text, encoding: [(n, n + 1) for n in range(1, len(text))])
    ids, tails = encode_shared(whole, inner, 0, contexts, wholes)
    assert [ids[text] for text in contexts] == whole(contexts)
    assert not any(tail.kept for tail in tails.values())
