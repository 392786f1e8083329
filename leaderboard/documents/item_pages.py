"""The items of `assay store publish --items`: of each task those that tell the models apart, with every model's response."""

from __future__ import annotations

from pathlib import Path

from assay.leaderboard.data import queries
from assay.leaderboard.data.safe_text import folder, visible
from assay.leaderboard.documents.document import Fold, Paragraph, Part, Table

ABOUT = "Per task the items on which models differ most: the prompt, the gold answer, and every model's response."
LONGEST = 4000


def items(root: Path, most: int = 20) -> list[Part]:
    """One fold per task, in it one per item; at most `most` items of a task."""
    found = queries.differing(root, most)
    parts: list[Part] = []
    for task, part in found.groupby("task", sort=True):
        folds = []
        for item, rows in part.groupby("item_id", sort=False):
            first = rows.iloc[0]
            answers = tuple(
                ("right" if row.correct >= 0.5 else "wrong", visible(folder(row.model), 60), visible(row.output, LONGEST))
                for row in rows.itertuples()
            )
            right = sum(outcome == "right" for outcome, *_ in answers)
            head = f"{visible(item, 60)}: {right} of {len(answers)} models right, gold: {visible(first.gold, 80)}"
            prompt = Paragraph(visible(first.prompt, LONGEST, lines=True), "code")
            folds.append(Fold(head, (prompt, Table(("outcome", "model", "response"), answers))))
        parts.append(Fold(f"{visible(task, 80)} ({len(folds)} items)", tuple(folds)))
    return parts or [Paragraph("No item on which the ranked models differ.")]
