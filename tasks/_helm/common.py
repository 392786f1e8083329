"""What HELM's scenarios share: its prompt formats, and sources that regroup or join data sets.

Source: HELM (crfm-helm 0.5), adaptation/common_adapter_specs.py and the adapters. Blocks are joined by a blank line; the last
output prefix loses its trailing space, which the joint then supplies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import Access, AssayError, Doc, Generate, Layout, Metric, Missing, Shots, Task, Worked, exact_match, inline

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.source import Rows, Source

HELM = "Liang et al. 2022, Holistic Evaluation of Language Models"
FIVE = Shots(5, order="balanced")
"""HELM's in-context examples: one set for all items, chosen by label."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A split made from the rows of others: `make` is called with the rows of each (source, split) of `parts`.

    `stand_in` marks rows that only stand in for a missing split; they need --allow-partial, as a partial file does.
    """

    parts: tuple[tuple[Source, str], ...]
    make: Callable[..., Iterable[Row]] = tuple
    stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Derived:
    """Splits made by recipes. A split whose parts are partial is partial."""

    recipes: Mapping[str, Recipe]

    def at(self, home: Path) -> Derived:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return tuple(name for name, recipe in self.recipes.items() if all(split in source.splits(access) for source, split in recipe.parts))

    def load(self, split: str, access: Access) -> Rows:
        if split not in self.recipes:
            raise Missing(f"no split {split!r} (there is: {', '.join(self.recipes)})", do="choose another split")
        recipe = self.recipes[split]
        if recipe.stand_in and not access.allow_partial:
            raise Missing(f"split {split!r} only stands in for a missing one", do="--allow-partial uses it and marks the scores as partial")
        read = [source.load(name, access) for source, name in recipe.parts]
        made = inline(**{split: recipe.make(*(rows.rows for rows in read))}).load(split, access)
        return replace(
            made, origin=" + ".join(rows.origin for rows in read), complete=not recipe.stand_in and all(rows.complete for rows in read)
        )


def instructions(text: str) -> str:
    """HELM's instruction block: its line and a blank one."""
    return f"{text}\n\n" if text else ""


def ask_after(text: str, noun: str, answer_noun: str) -> str:
    """`Noun: text`, then the prefix of the answer. An empty noun stands for no prefix."""
    return f"{noun}: {text}\n{answer_noun}:" if noun else f"{text}\n{answer_noun}:"


def lettered(text: str, noun: str, choices: tuple[str, ...]) -> str:
    """The joint format: question, choices with letters, `Answer:`."""
    listed = "".join(f"{letter(index)}. {choice}\n" for index, choice in enumerate(choices))
    return f"{noun}: {text}\n{listed}Answer:"


def letter(index: int) -> str:
    return chr(ord("A") + index)


def joint_doc(
    text: str, noun: str, choices: tuple[str, ...], gold: int, meta: Mapping[str, Any] | None = None, inputs: tuple[str, ...] = ()
) -> Doc:
    """A multiple-choice question that the model answers by a letter; `meta["label"]`, which HELM draws exemplars by, is the text.

    `inputs`: the parts of the text that a perturbation may change; all of it when empty.
    """
    if not 0 <= gold < len(choices):
        raise AssayError(f"gold {gold} is out of range for {len(choices)} choices", do="mend the row")
    label = {"label": choices[gold], **(meta or {})}
    return Doc(lettered(text, noun, choices), references=(letter(gold),), meta=label, inputs=inputs or (text,))


def starts_with_letter(doc: Doc, output: Any) -> bool:
    """Whether the answer is a capital letter, as the joint format wants."""
    text = output.text.strip()
    return len(text) == 1 and text.isalpha() and text.isupper()


letter_match: Metric[Any] = replace(exact_match, parses=starts_with_letter, signature=f"{exact_match.signature}|letter")
"""Exact match of the letter; anything but a single capital letter counts as unparsed (and wrong)."""

LETTER = Generate(1)
"""HELM lets the joint format write one token."""


def scenario(name: str, **fields: Any) -> Task:
    """A HELM task: `helm/<name>` under the protocol "helm" unless it says otherwise."""
    return Task(**{"name": f"helm/{name}", "protocol": "helm", **fields})


def worked(row: Row, prompt: str, answer: str) -> tuple[Worked, ...]:
    return (Worked(row, prompt, answer),)


PLAIN = Layout()
