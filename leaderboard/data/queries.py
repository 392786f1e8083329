"""SQL queries on the index. Every query opens and closes its own read-only connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.store import connect
from assay.harness.store.queries import INDEX
from assay.leaderboard.data.ranking import Array

PAGE = 50
MODEL = """
    model, model_digest, coalesce(
        json_extract_string(manifest, '$.imported.from'),
        CASE WHEN starts_with(model_digest, 'served-') THEN 'served, weights not verified' ELSE 'assay' END
    ) AS source,
    json_extract_string(manifest, '$.model.adapter') AS adapter, json_extract_string(manifest, '$.model.path') AS path,
    TRY_CAST(json_extract(manifest, '$.model.parameters') AS DOUBLE) AS parameters,
    TRY_CAST(json_extract(summary, '$.tokens.computed') AS DOUBLE) AS tokens,
    TRY_CAST(json_extract(summary, '$.seconds.engine') AS DOUBLE) AS seconds
"""


def stamp(root: Path) -> str:
    """A cache key that changes with the index file. Empty if there is no index."""
    try:
        facts = (root / INDEX).stat()
    except OSError:
        return ""
    return f"{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}"


def frame(root: Path, sql: str, params: Sequence[Any] = ()) -> Any:
    """The result of one query as a pandas frame. Raises AssayError if the index is missing or unreadable."""
    connection = connect(root)
    try:
        return connection.execute(sql, list(params)).df()
    finally:
        connection.close()


def result_columns(column: str) -> str:
    """SQL that reads better (direction), chance and unit (best possible score; 0: unbounded) from a result's JSON."""
    return f"""coalesce(json_extract_string({column}, '$.better'), 'higher') AS better,
               TRY_CAST(json_extract({column}, '$.chance') AS DOUBLE) AS chance,
               CASE json_type({column}, '$.unit') WHEN 'NULL' THEN 0
                    ELSE TRY_CAST(json_extract({column}, '$.unit') AS DOUBLE) END AS unit"""


def cells(root: Path) -> Any:
    """One row per model and task: the leaderboard view with the metric's direction, unit and chance score, and the run's cost."""
    return frame(
        root,
        f"""
        WITH facts AS (SELECT run_id, items, {MODEL} FROM run WHERE status = 'complete')
        SELECT l.model, l.model_digest, l.task, l.metric, l.value, l.low, l.high, l.n, l.shots, coalesce(l.fingerprint, '') AS fingerprint,
               l.engine, l.run_id, l.created_at, {result_columns("l.result")},
               f.source, f.adapter, f.parameters, f.tokens, f.seconds, f.items
        FROM leaderboard l JOIN facts f USING (run_id)
        ORDER BY l.task, l.model, l.model_digest
        """,
    )


def runs(root: Path) -> Any:
    """One row per run of the index, newest first, with its number of items in error."""
    return frame(
        root,
        f"""
        SELECT run_id, engine, purpose, evidence, status, created_at, items, path AS bundle, {MODEL.replace("AS path", "AS model_path")},
               coalesce((SELECT sum(errors) FROM run_task t WHERE t.run_id = run.run_id), 0)::BIGINT AS errors
        FROM run ORDER BY created_at DESC, run_id DESC
        """,
    )


def scores(root: Path, run_id: str) -> Any:
    """Every score of a run, ranked or not; totals last."""
    return frame(
        root,
        f"""
        SELECT s.task, s.metric, s.main, s.value, s.low, s.high, s.n, s.shots, s.signature, t.fingerprint, s.purpose,
               coalesce(s.evidence, '') AS evidence, {result_columns("s.result")}
        FROM score s LEFT JOIN run_task t USING (run_id, task) WHERE s.run_id = ?
        ORDER BY s.metric = 'total', s.task, s.main DESC, s.metric
        """,
        [run_id],
    )


def statuses(root: Path, run_id: str) -> Any:
    """How many items of each task were scored, unparsed, truncated or in error."""
    return frame(
        root,
        """
        SELECT task, count(*) AS items, count(*) FILTER (status = 'unparsed') AS unparsed,
               count(*) FILTER (status = 'truncated') AS truncated, count(*) FILTER (status = 'error') AS errors
        FROM sample WHERE run_id = ? GROUP BY task ORDER BY task
        """,
        [run_id],
    )


def manifest(root: Path, run_id: str) -> str:
    """A run's manifest as JSON text; empty for an unknown run."""
    found = frame(root, "SELECT manifest FROM run WHERE run_id = ?", [run_id])
    return str(found.manifest.iloc[0]) if len(found) else ""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Mean [C] and item count [C] of each cluster of one cell, in the order of `names` [C] (hashes); `mean` over all items."""

    names: Any
    means: Array
    sizes: Array
    mean: float


def cluster_means(root: Path, keys: Any) -> list[Clusters | None]:
    """Averages the first statistic of each cell's items by cluster. `keys` is a frame of run_id, task, metric; None for no items."""
    connection = connect(root)
    try:
        found = connection.execute(
            """
            WITH requested AS (SELECT unnest(range(len($1))) AS cell, unnest($1) AS run_id, unnest($2) AS task, unnest($3) AS metric)
            SELECT cell, hash(item_cluster) AS name, sum(stats[1]) AS total, count(*)::DOUBLE AS size
            FROM item_stat JOIN requested USING (run_id, task, metric) GROUP BY ALL ORDER BY cell, name
            """,
            [keys[name].tolist() for name in ("run_id", "task", "metric")],
        ).fetchnumpy()
    finally:
        connection.close()
    edges = np.searchsorted(found["cell"], np.arange(len(keys) + 1))
    result: list[Clusters | None] = []
    for start, end in pairwise(edges.tolist()):
        total, size = (np.asarray(found[name][start:end], dtype=np.float64) for name in ("total", "size"))
        names = found["name"][start:end]
        result.append(Clusters(names, total / size, size, float(total.sum() / size.sum())) if end > start else None)
    return result


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Selects samples. Empty means any. `outcome`: right, wrong, unparsed, truncated, error."""

    runs: tuple[str, ...] = ()
    task: str = ""
    outcome: str = ""
    text: str = ""
    item: str = ""
    agreement: str = ""
    """How many models are right on the item: all, some or none."""

    def where(self) -> tuple[str, list[Any]]:
        """The SQL condition and its parameters. Text of users and models is only ever a parameter."""
        parts: list[str] = []
        params: list[Any] = []
        if self.runs:
            parts.append(f"run_id IN ({', '.join('?' * len(self.runs))})")
            params += self.runs
        for column, value in (("task", self.task), ("item_id", self.item)):
            if value:
                parts.append(f"{column} = ?")
                params.append(value)
        if self.outcome in ("right", "wrong"):
            parts.append("correct >= 0.5" if self.outcome == "right" else "correct < 0.5")
        elif self.outcome:
            parts.append("status = ?")
            params.append(self.outcome)
        if self.agreement:
            test = {"all": "min(correct) >= 0.5", "none": "max(correct) < 0.5"}.get(
                self.agreement, "min(correct) < 0.5 AND max(correct) >= 0.5"
            )
            inner = "SELECT task, item_id FROM sample" + (" WHERE task = ?" if self.task else "")
            parts.append(f"(task, item_id) IN ({inner} GROUP BY task, item_id HAVING {test})")
            params += [self.task] if self.task else []
        if self.text:
            parts.append("(contains(lower(prompt), lower(?)) OR contains(lower(output), lower(?)) OR contains(lower(item_id), lower(?)))")
            params += [self.text] * 3
        return " AND ".join(parts) or "true", params


def item_page(root: Path, chosen: ItemFilter, page: int = 1) -> tuple[int, Any]:
    """The number of matching samples, and one page of them, in storage order: by run and then in planned order."""
    where, params = chosen.where()
    connection = connect(root)
    try:
        # One scan for the row numbers: it is what takes time on a million rows. Rows are then read by number.
        found = connection.execute(f"SELECT rowid FROM sample WHERE {where}", params).fetchnumpy()["rowid"]
        start = PAGE * (max(1, page) - 1)
        rows = connection.execute(
            """
            SELECT run_id, task, item_id, status, correct, right(prompt, 400) AS prompt, left(output, 400) AS output,
                   left(gold, 200) AS gold, left(error, 200) AS error
            FROM sample WHERE rowid IN (SELECT unnest($1::BIGINT[])) ORDER BY rowid
            """,
            [found[start : start + PAGE].tolist()],
        ).df()
    finally:
        connection.close()
    return len(found), rows


def responses(root: Path, task: str, item: str) -> Any:
    """Every run's response to one item, newest run first."""
    return frame(
        root,
        """
        SELECT r.run_id, r.model, r.model_digest, r.engine, r.created_at, s.prompt, s.output, s.gold, s.correct, s.status, s.error,
               r.path AS bundle, s.item_cluster, t.fingerprint
        FROM sample s JOIN run r USING (run_id) LEFT JOIN run_task t USING (run_id, task)
        WHERE s.task = ? AND s.item_id = ? ORDER BY r.created_at DESC, r.run_id DESC
        """,
        [task, item],
    )


def task_items(root: Path, task: str, metric: str, run_ids: Sequence[str]) -> Any:
    """The first statistic of every item of a task, one row per run and item: run_id, item_id, value."""
    marks = ", ".join("?" * len(run_ids))
    return frame(
        root,
        f"SELECT run_id, item_id, stats[1] AS value FROM item_stat WHERE task = ? AND metric = ? AND run_id IN ({marks}) ORDER BY 2, 1",
        [task, metric, *run_ids],
    )


def flipped(root: Path, runs: Sequence[tuple[str, str]], items: Sequence[tuple[str, str]]) -> Any:
    """The gold answer and both responses of items (task, id); `runs` are the baseline and the candidate of each."""
    return frame(
        root,
        """
        WITH wanted AS (
            SELECT unnest($1) AS one, unnest($2) AS two, unnest($3) AS task, unnest($4) AS item_id, unnest(range(len($1))) AS place
        )
        SELECT w.task, w.item_id, left(a.gold, 200) AS gold, left(a.output, 400) AS baseline_output, left(b.output, 400) AS candidate_output
        FROM wanted w
        JOIN sample a ON a.run_id = w.one AND a.task = w.task AND a.item_id = w.item_id
        JOIN sample b ON b.run_id = w.two AND b.task = w.task AND b.item_id = w.item_id
        ORDER BY w.place
        """,
        [[each[0] for each in runs], [each[1] for each in runs], [each[0] for each in items], [each[1] for each in items]],
    )


def other_prompts(root: Path, run_id: str, task: str, item: str) -> Any:
    """The prompts of a few other items of a task."""
    sql = "SELECT prompt FROM sample WHERE run_id = ? AND task = ? AND item_id <> ? LIMIT 8"
    return frame(root, sql, [run_id, task, item])


def published_scores(root: Path) -> Any:
    """Every score of every complete run, with its fingerprint and signature."""
    return frame(
        root,
        """
        SELECT s.run_id, r.model, r.model_digest, r.engine, s.task, t.fingerprint, s.metric, s.main, s.value, s.low, s.high, s.n, s.shots,
               coalesce(s.evidence, r.evidence) AS evidence, coalesce(s.purpose, r.purpose) AS purpose, s.signature, r.created_at
        FROM score s JOIN run r USING (run_id) LEFT JOIN run_task t USING (run_id, task)
        WHERE r.status = 'complete' ORDER BY r.created_at, s.run_id, s.task, s.main DESC, s.metric
        """,
    )


def published_stats(root: Path) -> Any:
    """The statistics of every item behind the ranked scores."""
    return frame(
        root,
        """
        SELECT i.run_id, i.task, i.metric, i.item_id, i.item_group, i.item_cluster, i.stats
        FROM item_stat i JOIN leaderboard l ON l.run_id = i.run_id AND l.task = i.task AND l.metric = i.metric
        ORDER BY i.run_id, i.task, i.metric, i.item_id
        """,
    )


def differing(root: Path, most: int) -> Any:
    """Responses of the ranked models to the `most` items of each task that are nearest to half right, right ones first."""
    return frame(
        root,
        """
        WITH ranked AS (SELECT DISTINCT run_id, task FROM leaderboard), answers AS (
            SELECT s.* FROM sample s JOIN ranked USING (run_id, task) WHERE s.correct IS NOT NULL
        ), chosen AS (
            SELECT task, item_id FROM answers GROUP BY task, item_id HAVING min(correct) < 0.5 AND max(correct) >= 0.5
            QUALIFY row_number() OVER (PARTITION BY task ORDER BY abs(avg(correct) - 0.5), item_id) <= ?
        )
        SELECT a.task, a.item_id, r.model, a.prompt, a.gold, a.output, a.correct
        FROM answers a JOIN chosen USING (task, item_id) JOIN run r USING (run_id) ORDER BY 1, 2, a.correct DESC, r.model
        """,
        [most],
    )


def tuning(root: Path) -> Any:
    """Every trial of every study."""
    return frame(root, "SELECT * FROM tuning ORDER BY study, family, method, lr, seed, task")


def mixed_versions(root: Path) -> Any:
    """Tasks with more than one fingerprint among complete runs."""
    return frame(
        root,
        """
        SELECT task, count(DISTINCT fingerprint) AS versions, count(*) AS runs,
            string_agg(DISTINCT fingerprint, ', ' ORDER BY fingerprint) AS fingerprints
        FROM run_task JOIN run USING (run_id) WHERE fingerprint IS NOT NULL AND status = 'complete'
        GROUP BY task HAVING count(DISTINCT fingerprint) > 1 ORDER BY task
        """,
    )


def unranked(root: Path) -> Any:
    """Scores of complete runs that are not ranked, with the reason."""
    return frame(
        root,
        f"""
        SELECT r.run_id, r.model, s.task, s.metric, s.value, s.n, {result_columns("s.result")},
               CASE WHEN coalesce(s.purpose, r.purpose) <> 'release' THEN 'purpose is ' || coalesce(s.purpose, r.purpose)
                    WHEN coalesce(s.evidence, r.evidence) <> 'complete' THEN 'evidence is ' || coalesce(s.evidence, r.evidence)
                    WHEN coalesce(t.errors, 0) > 0 THEN t.errors || ' items in error'
                    WHEN s.reason IS NOT NULL THEN s.reason
                    ELSE 'replaced by a later run of the same weights' END AS reason
        FROM score s JOIN run r USING (run_id) LEFT JOIN run_task t USING (run_id, task)
        WHERE s.main AND r.status = 'complete'
          AND NOT EXISTS (SELECT 1 FROM leaderboard l WHERE l.run_id = s.run_id AND l.task = s.task AND l.metric = s.metric)
        ORDER BY reason, r.model, s.task
        """,
    )


def index_error(root: Path) -> str:
    """Error message if the index cannot be read; else empty."""
    try:
        connect(root).close()
    except AssayError as error:
        return str(error)
    return ""


def repeated_scores(root: Path) -> Any:
    """Lowest and highest score where the same weights were scored more than once on the same items, largest difference first."""
    return frame(
        root,
        """
        SELECT r.model, s.task, s.metric, count(*) AS runs, min(s.value) AS lowest, max(s.value) AS highest,
               string_agg(DISTINCT r.engine, ', ' ORDER BY r.engine) AS engines
        FROM score s JOIN run r USING (run_id) JOIN run_task t USING (run_id, task)
        WHERE r.status = 'complete' AND s.value IS NOT NULL
        GROUP BY r.model, r.model_digest, s.task, s.metric, t.fingerprint, s.n HAVING count(*) > 1
        ORDER BY highest - lowest DESC
        """,
    )


def task_flags(root: Path) -> Any:
    """Tasks of runs with over 5 % unparsed or truncated responses, moved token boundaries, or dropped few-shot examples."""
    return frame(
        root,
        """
        WITH recorded AS (
            SELECT run_id, model, unnest(from_json(json_extract(manifest, '$.tasks'),
                '[{"name": "VARCHAR", "boundary_moved": "BIGINT", "shots_dropped": "BIGINT"}]')) AS fact
            FROM run WHERE status = 'complete' AND json_type(json_extract(manifest, '$.tasks')) = 'ARRAY'
        ), counted AS (
            SELECT run_id, task, count(*) AS items, avg((status = 'unparsed')::INT) AS unparsed,
                   avg((status = 'truncated')::INT) AS truncated
            FROM sample GROUP BY run_id, task
        )
        SELECT n.model, n.run_id, c.task, c.items, c.unparsed, c.truncated, coalesce(n.fact.boundary_moved, 0) AS boundary_moved,
               coalesce(n.fact.shots_dropped, 0) AS shots_dropped
        FROM counted c JOIN recorded n ON n.run_id = c.run_id AND n.fact.name = c.task
        WHERE c.unparsed > 0.05 OR c.truncated > 0.05 OR n.fact.boundary_moved > 0 OR n.fact.shots_dropped > 0
        ORDER BY c.unparsed + c.truncated DESC, n.model
        """,
    )


def task_names(root: Path) -> Any:
    """Names of all tasks in the index."""
    return frame(root, "SELECT DISTINCT task FROM run_task ORDER BY task")
