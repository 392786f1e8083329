"""Every eighth minimal pair of four BLiMP paradigms: which sentence is grammatical? A task plugin for tests.sim.real."""

from assay import Choose, Doc, Task, accuracy, hub

PARADIGMS = ("anaphor_number_agreement", "determiner_noun_agreement_with_adj_2", "passive_1", "wh_vs_that_with_gap")


def kept(row):
    return [row] if int(row["pair_id"]) % 8 == 0 else []


def pair(row):
    sentences = (row["sentence_good"], row["sentence_bad"])
    gold = int(row["pair_id"]) // 8 % 2
    return Doc("", choices=sentences[::-1] if gold else sentences, gold=gold)


TASKS = tuple(
    Task(f"pairs/{name}", hub("nyu-mll/blimp", name, expand=kept), pair, Choose(normalize="tokens"), (accuracy,), split="train")
    for name in PARADIGMS
)
