"""A tiny Llama trained on synthetic tasks, so that the true gain and forgetting are known.

The base model is trained on four tasks until it is almost always right. Studies then tune it on a new task (`max`), or on one that uses
known words in another sense (`topic`). Prompts are words from one small vocabulary, one token each.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from assay import Choose, Doc, Task, accuracy, made
from assay.tuners.methods import find_method
from assay.tuners.training.batches import Example, plan_steps
from assay.tuners.training.train import Recipe, train

DIGITS = tuple("0123456789")
LETTERS = tuple("abcdefghij")
WORDS = tuple(f"w{number}" for number in range(24))
SKILLS = ("add", "first", "mood", "second")
TARGETS = ("max", "topic")
LABELS = ("good", "bad", "plant", "stone")
VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", *SKILLS, *TARGETS, "=", *LABELS, *DIGITS, *LETTERS, *WORDS)
EXAMPLES = 60_000
"""Training examples of the toy model over all skills, one loss token each."""
SIZE = {"train": 2000, "validation": 100, "test": 200}

Row = dict[str, Any]


def add(draw: random.Random) -> Row:
    """Addition of two digits modulo ten."""
    a, b = draw.randrange(10), draw.randrange(10)
    return {"prompt": f"add {a} {b} =", "choices": DIGITS, "gold": (a + b) % 10}


def first(draw: random.Random) -> Row:
    """The first of four letters."""
    letters = draw.sample(LETTERS, 4)
    return {"prompt": f"first {' '.join(letters)} =", "choices": LETTERS, "gold": LETTERS.index(letters[0])}


def mood(draw: random.Random) -> Row:
    """Whether more of three words are good (even number) than bad."""
    numbers = draw.sample(range(len(WORDS)), 3)
    return {"prompt": f"mood {' '.join(WORDS[n] for n in numbers)} =", "choices": LABELS[:2], "gold": int(sum(n % 2 for n in numbers) >= 2)}


def second(draw: random.Random) -> Row:
    """The second of four letters."""
    letters = draw.sample(LETTERS, 4)
    return {"prompt": f"second {' '.join(letters)} =", "choices": LETTERS, "gold": LETTERS.index(letters[1])}


def largest(draw: random.Random) -> Row:
    """The largest of three digits: the new skill."""
    digits = [draw.randrange(10) for _ in range(3)]
    return {"prompt": f"max {' '.join(map(str, digits))} =", "choices": DIGITS, "gold": max(digits)}


def topic(draw: random.Random) -> Row:
    """Whether more of three words have a number below twelve: known words in a new sense."""
    numbers = draw.sample(range(len(WORDS)), 3)
    low = sum(n < len(WORDS) // 2 for n in numbers)
    return {"prompt": f"topic {' '.join(WORDS[n] for n in numbers)} =", "choices": LABELS[2:], "gold": int(low >= 2)}


MAKERS: dict[str, Callable[[random.Random], Row]] = {
    "add": add, "first": first, "mood": mood, "second": second, "max": largest, "topic": topic,
}  # fmt: skip


def rows(skill: str, split: str) -> Iterator[Row]:
    """Rows of a split, without repeated prompts. Splits do not overlap, except for `add`, which has only a hundred prompts."""
    draw = random.Random(f"{skill}:{split}")
    held = {row["prompt"] for other in ("validation", "test") for row in rows(skill, other)} if split == "train" else set()
    if split == "test":
        held = {row["prompt"] for row in rows(skill, "validation")}
    if skill == "add":  # there are only a hundred sums, so the splits share them
        held = set()
    seen: set[str] = set(held)
    for _ in range(20 * SIZE[split]):
        row = MAKERS[skill](draw)
        if row["prompt"] not in seen:
            seen.add(row["prompt"])
            yield row
        if len(seen) - len(held) >= SIZE[split]:
            return


def read(row: Row) -> Doc:
    return Doc(row["prompt"], choices=tuple(row["choices"]), gold=row["gold"])


def toy_task(skill: str) -> Task:
    return Task(
        name=f"toy/{skill}",
        rows=made(lambda split: rows(skill, split), "train", "validation", "test"),
        doc=read,
        ask=Choose(),
        metrics=(accuracy,),
        split="test",
        about=(MAKERS[skill].__doc__ or "").strip(),
        purpose="smoke",
    )


ADD, FIRST, MOOD, SECOND, MAX, TOPIC = (toy_task(skill) for skill in (*SKILLS, *TARGETS))


def save_tokenizer(directory: Path) -> None:
    """Save a tokenizer that splits at spaces, one id per word, and puts <s> before every text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", VOCABULARY.index("<s>"))])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained(str(directory))


def encode(row: Row) -> Example:
    """The training example that assay.tuners.training.data would make of the row, without a tokenizer."""
    ids = [VOCABULARY.index(word) for word in ("<s>", *row["prompt"].split(), row["choices"][row["gold"]])]
    return Example(tuple(ids), len(ids) - 1)


def fresh_model(seed: int, width: int = 64, layers: int = 3) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def make_toy(directory: Path) -> Path:
    """Train the toy model and save it with its tokenizer, about a minute on two cores; an existing model is kept.

    An interrupted training resumes from its checkpoint.
    """
    if (directory / "tokenizer.json").is_file():
        return directory
    draw = random.Random("toy:0")
    pool = [encode(MAKERS[skill](draw)) for _ in range(EXAMPLES // len(SKILLS)) for skill in SKILLS]
    trainable = find_method("full").begin(fresh_model(0))
    steps = plan_steps(pool, loss_tokens=EXAMPLES, batch=64, seed=0)
    train(trainable, steps, Recipe(lr=3e-3, micro=64, warmup=0.05, checkpoint_every=500), directory=directory / "training")
    trainable.save(directory)
    shutil.rmtree(directory / "training", ignore_errors=True)
    save_tokenizer(directory)  # last: its presence marks a finished model
    return directory
