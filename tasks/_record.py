"""ReCoRD: converts rows to Docs and compares entities like SQuAD's evaluation script compares answers."""

from __future__ import annotations

from collections import Counter

from assay import AssayError, ChoiceScores, Doc, Metric
from assay.harness.metrics.text import normalize_text
from assay.tasks.glue import Row


def record(row: Row) -> Doc:
    """One choice per entity of the passage, filled into the query's blank; several may be correct."""
    story, *highlights = row["passage"].strip().split("\n@highlight\n")
    entities = tuple(sorted(set(row["entities"])))
    answers = tuple(sorted(set(row["answers"])))
    return Doc(
        story + "\n\n" + "".join(f"  - {highlight}.\n" for highlight in highlights) + "  -",
        choices=tuple(row["query"].replace("@placeholder", entity) for entity in entities),
        targets=tuple(float(entity in answers) for entity in entities) if answers else (),
        id=f"{row['idx']['passage']}-{row['idx']['query']}",
        cluster=str(row["idx"]["passage"]),
        inputs=(story, *highlights),
        meta={"entities": list(entities), "answers": list(answers)},
    )


def word_f1(found: str, gold: str) -> float:
    """F1 of words under SQuAD's normalisation, counted as a multiset; 1 if neither text has words. Source: the SQuAD evaluation script."""
    ours, theirs = normalize_text(found).split(), normalize_text(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def picked_and_gold(doc: Doc, output: ChoiceScores) -> tuple[str, list[str]]:
    """The predicted entity and the gold entities. Raises AssayError for an unlabelled item."""
    if not doc.meta["answers"]:
        raise AssayError("no gold answers", where=doc.id, do="score a labelled split: --split validation")
    return doc.meta["entities"][output.pick], doc.meta["answers"]


def entity_f1(doc: Doc, output: ChoiceScores) -> tuple[float]:
    entity, answers = picked_and_gold(doc, output)
    return (max(word_f1(entity, answer) for answer in answers),)


def entity_match(doc: Doc, output: ChoiceScores) -> tuple[float]:
    entity, answers = picked_and_gold(doc, output)
    return (float(any(normalize_text(entity) == normalize_text(answer) for answer in answers)),)


RECORD_F1: Metric[ChoiceScores] = Metric("f1", entity_f1, reads=ChoiceScores, signature="squad|best")
RECORD_EM: Metric[ChoiceScores] = Metric("em", entity_match, reads=ChoiceScores, signature="squad|best")
