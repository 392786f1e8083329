"""Converts rows of SuperGLUE to Docs. Prompts follow lm-eval 0.4.13; `superglue.py` lists the differences and their reasons."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from assay import Doc
from assay.tasks.glue import NO_YES, TRUE_FALSE, Row, classify, label


def boolq(row: Row) -> Doc:
    """Questions on one passage are resampled together."""
    prompt = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    passage = hashlib.sha256(row["passage"].encode()).hexdigest()[:12]
    return Doc(prompt, choices=NO_YES, gold=label(row), id=str(row["idx"]), cluster=passage)


def cb(row: Row) -> Doc:
    prompt = f"{row['premise']}\nQuestion: {row['hypothesis']}. True, False, or Neither?\nAnswer:"
    return classify(row, prompt, ("True", "False", "Neither"))


def copa(row: Row) -> Doc:
    """The premise without its full stop, the connective, and one of two continuations in lower case."""
    connective = {"cause": "because", "effect": "therefore"}[row["question"]]
    choices = tuple(text[:1].lower() + text[1:] for text in (row["choice1"], row["choice2"]))
    premise = row["premise"].strip()[:-1]
    return replace(classify(row, f"{premise} {connective}", choices), inputs=(premise,))


def multirc(row: Row) -> Doc:
    """One answer to one question. Answers to a question are scored together; questions on a paragraph are resampled together."""
    place = row["idx"]
    return Doc(
        f"{row['paragraph']}\nQuestion: {row['question']}\nAnswer: {row['answer']}\nIs the answer correct?",
        choices=NO_YES,
        gold=label(row),
        id=f"{place['paragraph']}-{place['question']}-{place['answer']}",
        group=f"{place['paragraph']}-{place['question']}",
        cluster=str(place["paragraph"]),
    )


def rte(row: Row) -> Doc:
    return classify(row, f"{row['premise']}\nQuestion: {row['hypothesis']} True or False?\nAnswer:", TRUE_FALSE)


def axb(row: Row) -> Doc:
    return classify(row, f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:", TRUE_FALSE)


def axg(row: Row) -> Doc:
    """Rows 2k and 2k+1 are a minimal pair: they differ in the gender of a pronoun."""
    prompt = f"{row['premise']}\nQuestion: {row['hypothesis']} True or False?\nAnswer:"
    return Doc(prompt, choices=TRUE_FALSE, gold=label(row), id=str(row["idx"]), group=f"pair-{row['idx'] // 2}")


def wic(row: Row) -> Doc:
    word = row["sentence1"][row["start1"] : row["end1"]]
    pair = f"Sentence 1: {row['sentence1']}\nSentence 2: {row['sentence2']}"
    question = f"Question: Is the word '{word}' used in the same way in the two sentences above?"
    return classify(row, f"{pair}\n{question}\nAnswer:", NO_YES)


def wsc(row: Row) -> Doc:
    """The pronoun is marked with stars. `span2_index` counts words, not characters."""
    text, noun, pronoun = row["text"], row["span1_text"], row["span2_text"]
    before = " ".join(text.split()[: row["span2_index"]])
    after = text[len(before) + len(pronoun) + 1 :]
    passage = detokenize(f"{before} *{pronoun}*{after}")
    question = f'Question: In the passage above, does the pronoun "*{pronoun}*" refer to "*{noun}*"?'
    around = tuple(filter(None, passage.split(f"*{pronoun}*", 1)))  # perturbations must not change the marked pronoun
    return replace(classify(row, f"Passage: {passage}\n{question}\nAnswer:", NO_YES), inputs=around)


def detokenize(text: str) -> str:
    """Join split-off punctuation, as lm_eval.utils.general_detokenize does."""
    for split, joined in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
        text = text.replace(split, joined)
    return re.sub(r" (['.,])", r"\1", text)
