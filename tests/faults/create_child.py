"""Kills a process at every boundary of making a run's folder. Prints one JSON object. See test_runs.py."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from store_child import fork, kill_at, make_items, make_manifest

from assay.harness.store import check, create_bundle, list_runs
from assay.harness.store.indexing import index


def main() -> None:
    killed, alive, found = 0, True, {"whole": 0, "leftovers": 0, "problems": 0}
    with tempfile.TemporaryDirectory() as folder:
        while alive:
            root = Path(folder) / str(killed)
            root.mkdir()
            pid = fork(lambda: (kill_at(killed + 1), create_bundle(root, make_manifest(), make_items(5))))  # noqa: B023
            alive = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            killed += alive
            runs = list_runs(root)
            found["whole"] += sum(run.status == "running" and not run.trouble for run in runs)
            found["problems"] += sum(bool(run.trouble) for run in runs)
            leftovers = list((root / "runs").glob(".new-*")) if (root / "runs").exists() else []
            found["leftovers"] += len(leftovers)
            for leftover in leftovers:
                os.utime(leftover, (0, 0))
            create_bundle(root, make_manifest(), make_items(5))  # goes on, and sweeps what is old
            found["problems"] += len(list((root / "runs").glob(".new-*")))
            index(root)
            found["problems"] += len(check(root))
    print(json.dumps({"killed": killed, **found}))


if __name__ == "__main__":
    sys.exit(main())
