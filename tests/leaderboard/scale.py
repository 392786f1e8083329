"""Measures the board at 50 models x 70 tasks x 1,000,000 responses. Not a test: python tests/leaderboard/scale.py FOLDER

Makes the store's index in FOLDER once (about 50 MB), then prints one JSON object: of five times the shortest in seconds, beside it the CPU
seconds of that one and the machine's load, and the peak memory in MB. "page" is the whole script run of Streamlit with every cache empty.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

MODELS, TASKS, ITEMS = 50, 70, 286


def make(root: Path) -> None:
    """Makes an index with a response of every model to every item, two items per cluster."""
    import duckdb

    from assay.harness.store.queries import SCHEMA

    (root / "runs").mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{root / 'assay.duckdb'}' AS store (STORAGE_VERSION 'v1.5.0')")
        connection.execute("USE store")
        connection.execute(files("assay.harness.store").joinpath("schema.sql").read_text())
        connection.execute("INSERT INTO schema_migrations VALUES (?, now()::TIMESTAMP)", [SCHEMA])
        connection.execute(
            """
            CREATE TEMP TABLE answer AS
            SELECT 'run' || m AS run_id, 'suite' || (t % 7) || '/task' || t || '@own' AS task, 'i' || n AS item_id,
                   'c' || (n // 2) AS cluster,
                   (hash(m, t, n) % 1000 < 300 + 8 * m - 200 * ((hash(t, n) % 1000) / 1000.0 - 0.5))::INT::DOUBLE AS right_, m, t, n
            FROM range(?) a(m), range(?) b(t), range(?) c(n)
            """,
            [MODELS, TASKS, ITEMS],
        )
        connection.execute(
            "INSERT INTO item_stat SELECT run_id, task, 'accuracy', item_id, item_id, cluster, [right_] FROM answer ORDER BY m, t, n"
        )
        connection.execute(
            """
            INSERT INTO sample SELECT run_id, task, item_id, item_id, cluster,
                'Question ' || n || ' of ' || task || ': ' || repeat('the quick brown fox and the lazy dog ', 1 + n % 5) || '\nAnswer:',
                'answer ' || (n * (m + 1) % 97), 'answer ' || n % 97, right_, 'scored', '' FROM answer ORDER BY m, t, n
            """
        )
        connection.execute(
            """
            INSERT INTO score SELECT run_id, task, 'accuracy', avg(right_), avg(right_) - 0.05, avg(right_) + 0.05, count(*), 0, task, true,
                'complete', 'release', NULL, '{"better": "higher", "chance": 0.25}' FROM answer GROUP BY run_id, task
            """
        )
        connection.execute("INSERT INTO run_task SELECT run_id, task, '1', 'fp-' || task, count(*), 0 FROM answer GROUP BY run_id, task")
        connection.execute(
            """
            INSERT INTO run SELECT 'run' || m, 'b' || m, 'runs/run' || m, 'lab/model-' || m, 'digest' || m, 'scripted', 'release',
                'complete', 'complete', TIMESTAMP '2026-01-01' + to_minutes(m::BIGINT), ?, 's',
                '{"model": {"adapter": "", "path": "/none", "parameters": ' || (m + 1) * 100000000 || '}, "tasks": []}',
                '{"tokens": {"computed": 1000000}, "seconds": {"engine": ' || m + 1 || '}}' FROM range(?) a(m)
            """,
            [TASKS * ITEMS, MODELS],
        )
        connection.execute("CHECKPOINT store")


def timed(action: Callable[[], object], times: int = 5) -> list[tuple[float, float]]:
    """Seconds and CPU seconds of each call."""
    found = []
    for _ in range(times):
        start, used = time.perf_counter(), time.process_time()
        action()
        found.append((round(time.perf_counter() - start, 3), round(time.process_time() - used, 3)))
    return found


def main(root: Path) -> None:
    if not (root / "assay.duckdb").exists():
        make(root)
    os.environ["ASSAY_RESULTS"] = str(root)
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    from assay.leaderboard.data import queries
    from assay.leaderboard.data.assembly import Filters, assemble, with_columns
    from assay.leaderboard.data.ranking import AGGREGATORS

    found: dict[str, list[tuple[float, float]]] = {"open": timed(lambda: queries.index_error(root), 1)}
    for by in AGGREGATORS:
        found[f"board, {by}"] = timed(lambda by=by: assemble(root, with_columns(queries.cells(root)), Filters(), by))
    app = AppTest.from_file(str(Path(__file__).parents[2] / "leaderboard" / "pages" / "app.py"), default_timeout=120)
    app.run()

    def page() -> None:
        st.cache_data.clear()
        app.run()
        assert not app.exception and app.get("bidi_component")[0].proto.json.count("<tr data-label") >= MODELS

    found["page, board"] = timed(page)
    searches = {"rare text": "question 285 of suite3/task10", "common text": "lazy dog", "no hit": "no such words"}
    for name, text in searches.items():
        found[f"items, {name}"] = timed(lambda text=text: queries.item_page(root, queries.ItemFilter(text=text)))
    found["items, models differ"] = timed(lambda: queries.item_page(root, queries.ItemFilter(agreement="some")))
    found["items, filters"] = timed(lambda: queries.item_page(root, queries.ItemFilter(runs=("run7",), outcome="wrong"), page=9))
    found["item, all responses"] = timed(lambda: queries.responses(root, "suite3/task10@own", "i7"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    best = {name: dict(zip(("seconds", "cpu"), min(times), strict=True)) for name, times in found.items()}
    rows = queries.item_page(root, queries.ItemFilter())[0]
    print(json.dumps({"rows": rows, "best": best, "load": os.getloadavg()[0], "cores": os.cpu_count(), "peak_MB": round(memory)}, indent=1))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(Path(sys.argv[1]))
