"""The files of a tokenizer: which there are, and the ids of its tokens, without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from assay.harness.errors import AssayError
from assay.harness.model.weights import FETCH_AGAIN, read_json

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
"""Vocabulary files: a model has at least one."""
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
TOKENIZER_FILES: tuple[str, ...] = (
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "*.tiktoken",
    *TEMPLATES,
)
"""Every file of a tokenizer that can change its ids or its prompts."""


def matching(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder that match one of the patterns, by name."""
    return {path.relative_to(folder).as_posix(): path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}


def token_ids(folder: Path) -> Iterator[tuple[str, int]]:
    """Every token and its id, from the JSON files of a tokenizer; none from a SentencePiece file alone."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        for file in ("vocab.json", "added_tokens.json"):
            if (folder / file).is_file():
                yield from ((token, id) for token, id in read_json(folder / file).items() if isinstance(id, int))
        return
    whole = read_json(path)
    model = whole.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not vocab:
        raise AssayError("no vocabulary in the tokenizer", where=str(path), do="fetch the tokenizer again")
    try:
        # A Unigram vocabulary is a list of [token, score], the others map token to id.
        yield from (
            ((str(token), int(id)) for token, id in vocab.items())
            if isinstance(vocab, dict)
            else ((str(pair[0]), i) for i, pair in enumerate(vocab))
        )
        yield from ((str(added["content"]), int(added["id"])) for added in whole.get("added_tokens") or ())
    except (TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
        raise AssayError(f"a token without an id: {error!r:.80}", where=str(path), do=FETCH_AGAIN) from None
