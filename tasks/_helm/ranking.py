"""HELM's ranking scenario, MS MARCO: does a passage answer a query? A query's passages are ranked by the answers and their likelihood.

HELM's own passages and candidate lists are on no hub. The passages here are those that the search engine showed (MS MARCO v1.1), about
ten for each query, so the protocol is `helm-format`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import AssayError, Completion, Doc, Generate, Metric, Pooled, Shots, Task, hub
from assay.tasks._helm.common import FORMAT, Derived, DerivedSplit, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.metric import Array, Codes, Stats

YES, NO = "Yes", "No"


def block(passage: str, query: str) -> str:
    return f"Passage: {passage}\nQuery: {query}\nDoes the passage answer the query?\nAnswer:"


def candidates(row: Row) -> list[tuple[str, int]]:
    found = row["passages"]
    return list(zip(found["passage_text"], found["is_selected"], strict=True))


def each_passage(rows: Iterable[Row]) -> Iterable[Row]:
    """One row per passage of the queries that a passage answers."""
    for row in rows:
        if any(right for _, right in candidates(row)):
            for passage, right in candidates(row):
                yield {"id": str(row["query_id"]), "query": row["query"], "passage": passage, "relevance": int(right)}


def pairs(rows: Iterable[Row]) -> Iterable[Row]:
    """One row per query with a passage that answers it and one that does not, in the order in which they were shown."""
    for row in rows:
        found = candidates(row)
        places = [next((place for place, (_, right) in enumerate(found) if bool(right) == wanted), -1) for wanted in (True, False)]
        if min(places) >= 0:
            yield {"query": row["query"], "pair": [found[place] for place in sorted(places)]}


def ms_marco(row: Row) -> Doc:
    """A passage to judge, or as a few-shot example both passages of a query: the first with its answer as part of the prompt."""
    if "pair" in row:
        (first, right), (second, _) = row["pair"]
        labels = (YES, NO) if right else (NO, YES)
        prompt = f"{block(first, row['query'])} {labels[0]}\n\n{block(second, row['query'])}"
        return Doc(prompt, references=(labels[1],), meta={"label": first})
    answer = YES if row["relevance"] else NO
    meta = {"relevance": row["relevance"]}
    return Doc(block(row["passage"], row["query"]), references=(answer,), group=row["id"], meta=meta, inputs=(row["query"],))


def judged(doc: Doc, output: Completion) -> Stats:
    """(2 for yes, 1 for no, 0 for any other answer; its log-probability, negated unless the answer is yes; relevance of the passage)."""
    if np.isnan(output.logprob):
        raise AssayError("no probability of the generated text: this engine returns none", where=doc.id, do="use another engine")
    answer = output.text.strip().lower()
    kind = 2.0 if answer == YES.lower() else 1.0 if answer == NO.lower() else 0.0
    return (kind, output.logprob if kind == 2.0 else -output.logprob, float(doc.meta["relevance"]))


def ranked(stats: Array, groups: Codes, score: Callable[[Array], float]) -> Array:
    """The score of each query's ranking [queries, 1]. Equal passages stay in their order."""
    found = np.zeros((int(groups.max()) + 1, 1))
    for code in range(len(found)):
        rows = stats[groups == code]
        order = np.lexsort((-rows[:, 1], -rows[:, 0]))
        found[code, 0] = score(rows[order, 2])
    return found


def reciprocal_rank(relevance: Array) -> float:
    """1 / rank of the first relevant passage among the first ten; 0 if there is none."""
    places = np.flatnonzero(relevance[:10] > 0)
    return 1.0 / (1 + int(places[0])) if len(places) else 0.0


def gain(relevance: Array) -> float:
    top = relevance[:10]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def ndcg(relevance: Array) -> float:
    """trec_eval's ndcg_cut_10: the gain of the first ten, as a share of the best possible one."""
    best = gain(np.sort(relevance)[::-1])
    return gain(relevance) / best if best > 0 else 0.0


def value(means: Array) -> Array:
    return means[..., 0]


def ranking_metric(name: str, score: Callable[[Array], float]) -> Metric[Completion]:
    return Metric(name, judged, Pooled(value, partial(ranked, score=score)), reads=Completion, signature="helm|yes>no>other|logprob")


RR_10, NDCG_10 = ranking_metric("RR@10", reciprocal_rank), ranking_metric("NDCG@10", ndcg)
SEARCHES = hub("microsoft/ms_marco", "v1.1", revision="a47ee7aae8d7d466ba15f9f0bfac3b3681087b3a")
ROW: Mapping[str, Any] = {"id": "1", "query": "how tall is a giraffe", "passage": "Giraffes grow to five metres.", "relevance": 1}
MS_MARCO = scenario(
    "ms_marco",
    protocol=FORMAT,
    rows=Derived(
        {"train": DerivedSplit(((SEARCHES, "train"),), pairs), "validation": DerivedSplit(((SEARCHES, "validation"),), each_passage)}
    ),
    doc=ms_marco,
    ask=Generate(5, ("\n",)),
    metrics=(RR_10, NDCG_10),
    split="validation",
    shots=Shots(2, order="balanced"),
    worked=worked(
        ROW,
        "Passage: Giraffes grow to five metres.\nQuery: how tall is a giraffe\nDoes the passage answer the query?\nAnswer:",
        YES,
    ),
    about="Does a passage answer a query? The query's passages are ranked by the answer and its likelihood. Two queries with two passages "
    "each are the few-shot examples. HELM ranks BM25's first thirty of 8.8 million passages.",
    licence="research use",
    citation="Bajaj et al. 2016, MS MARCO: A Human Generated MAchine Reading COmprehension Dataset",
)
RANKING_TASKS: tuple[Task, ...] = (MS_MARCO,)
