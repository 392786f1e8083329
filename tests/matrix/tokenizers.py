"""Small tokenizers of several kinds, trained here on a few sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT = (
    "the quick brown fox jumps over the lazy dog",
    "Question: what is the capital of France? Answer: Paris is the capital",
    "one two three four five six seven eight nine ten",
    "A true false yes no maybe because of the weather in the north",
)
SIZE = 320
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"


def save_tokenizer(kind: str, folder: Path) -> Any:
    """Write a tokenizer: bytes (BPE with BOS), no bos, neither (no BOS, no EOS), no letter a (its bytes are dropped), unigram, words, or
    extra (a token beyond the table)."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = {"neither": [], "no bos": ["</s>"]}.get(kind, ["<s>", "</s>"])
    if kind == "unigram":
        inner = Tokenizer(models.Unigram())
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer: Any = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=[*special, "<unk>"], unk_token="<unk>")
    elif kind == "words":
        inner = Tokenizer(models.WordLevel(unk_token="<unk>"))
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
        trainer = trainers.WordLevelTrainer(vocab_size=SIZE, special_tokens=[*special, "<unk>"])
    else:
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if kind != "no letter a" or letter != "a"]
        trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    trainer.show_progress = False
    inner.train_from_iterator([text.replace("a", "") if kind == "no letter a" else text for text in TEXT * 3], trainer)
    if "<s>" in special:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", inner.token_to_id("<s>"))]
        )
    names = {"<s>": {"bos_token": "<s>"}, "</s>": {"eos_token": "</s>"}}
    options = {key: value for token in special for key, value in names[token].items()}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **options)
    if kind == "extra":
        fast.add_tokens(["<image_soft_token>"], special_tokens=True)
    fast.save_pretrained(folder)
    return fast
