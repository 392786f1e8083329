"""Write a run: append finished items to the journal, then write the result files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.atomic import JSON_BYTES, read_json, to_json, write_error, write_file
from assay.harness.files.lock import file_lock
from assay.harness.files.safe_open import read_regular
from assay.harness.store.bundle import DONE, ITEMS, JOURNAL, LOCK, MANIFEST, PROOFS, SAMPLES, SCHEMA, STATS, SUMMARY, read_manifest
from assay.harness.store.journal import Journal, Key, encode_record, final_records, read_records, without_nonfinite
from assay.harness.store.read import Run, read_run
from assay.harness.store.record import Record
from assay.harness.store.shapes import ProofsShape, validate
from assay.harness.store.tables import portions_to_parquet, samples_table, stats_table, to_parquet, without_texts


@contextmanager
def open_writer(bundle: Path) -> Iterator[Writer]:
    """Open the writer of a run and hold the run's lock until the block ends. A complete run can be opened, but not appended to.

    Raises Incomplete naming the owner if another process is writing; AssayError if the folder is not a run or is damaged.
    """
    bundle = Path(bundle)
    read_manifest(bundle)
    with file_lock(bundle / LOCK):
        writer = Writer(bundle)
        try:
            yield writer
        finally:
            writer.close()


class Writer:
    """The writer of one run, created by `open_writer`."""

    def __init__(self, bundle: Path) -> None:
        self._run: Run = read_run(bundle)
        self._planned = dict.fromkeys(self._run.keys())
        manifest = hashlib.sha256(read_regular(bundle / MANIFEST, JSON_BYTES)).hexdigest()
        self._journal_key = (bundle / JOURNAL, self._run.id, manifest)
        self._failed: dict[Key, bool] = {}
        self._records: tuple[Record, ...] | None = None
        self._widths: dict[Key, int] = {}
        for record in self._run.records() if self._complete else read_records(*self._journal_key):
            self._check(record)
            self._track(record)
        self._journal = Journal(*self._journal_key)
        self._earlier_proofs = read_proofs(bundle / PROOFS)
        self._proof: Mapping[str, Any] = {}

    @property
    def _complete(self) -> bool:
        return self._run.status == "complete"

    def done(self) -> frozenset[Key]:
        """Return (task, item) of every item whose final record is not an error. A resumed run does not score these again."""
        return frozenset(key for key, failed in self._failed.items() if not failed)

    def records(self) -> tuple[Record, ...]:
        """Return the final record of every finished item, in planned order. They are read from the files, and kept until more are added."""
        if self._records is None:
            self._records = self._run.records()
        return self._records

    def append(self, records: Sequence[Record]) -> None:
        """Append records to the journal in one write. Once this returns, killing the process loses none of them.

        A record with a number that is not finite is stored as an error record. Raises AssayError for an unplanned item, or if a metric
        has another number of statistics than for other items; Incomplete if the disk cannot be written (then no record is added).
        """
        if not records:
            return
        if self._complete:
            raise AssayError("the run is complete; no records can be added", where=str(self._run.path), do="start a new run")
        batch = [without_nonfinite(record) for record in records]
        for record in batch:
            self._check(record)
        self._records = None
        self._journal.append(b"".join(map(encode_record, batch)))
        for record in batch:
            self._track(record)

    def keep_proof(self, facts: Mapping[str, Any]) -> None:
        """Store what this session has proven so far, for the summary of the run. Raises Incomplete if the disk is full."""
        self._proof = facts
        if not self._complete:
            try:
                write_file(self._run.path / PROOFS, to_json({"sessions": self.proofs()}, PROOFS))
            except OSError as error:
                raise write_error(error, self._run.path) from None

    def proofs(self) -> list[Mapping[str, Any]]:
        """The proof of each session of this run, the present one last."""
        return [*self._earlier_proofs, *filter(None, [self._proof])]

    def _check(self, record: Record) -> None:
        if (record.task, record.item) not in self._planned:
            raise AssayError(f"item {record.item!r} of {record.task} was not planned", where=str(self._run.path), do="start a new run")
        for metric, stats in record.stats.items():
            width = self._widths.setdefault((record.task, metric), len(stats))
            if width != len(stats):
                raise AssayError(
                    f"{metric} returned {len(stats)} statistics for {record.item!r}, but {width} for other items",
                    where=record.task,
                    do="fix the metric: return the same number of statistics for every item",
                )

    def _track(self, record: Record) -> None:
        key = (record.task, record.item)
        self._failed[key] = record.status == "error" and self._failed.get(key, True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the result files, then DONE with the SHA-256 of every file, and then remove the journal and PROOFS.

        After a kill at any point, calling it again completes the run; on a complete run it changes nothing. Raises Incomplete if items
        are missing or the disk is full (the journal stays), AssayError if the summary has a number that is not finite.
        """
        bundle = self._run.path
        if not self._complete:
            if missing := self._planned.keys() - self._failed.keys():
                example = "{} {}".format(*min(missing))
                what = f"{len(missing)} of {len(self._planned)} items have no result, for example {example}"
                raise Incomplete(what, where=str(bundle), do=f"resume with: assay resume {bundle.name}")
            self._journal.close()
            try:
                self._write(bundle, summary)
            except OSError as error:
                raise write_error(error, bundle) from None
            self._run, self._records = read_run(bundle), None
        for leftover in (bundle / JOURNAL, bundle / PROOFS, *bundle.glob(".*.part")):
            leftover.unlink(missing_ok=True)

    def _write(self, bundle: Path, summary: Mapping[str, Any]) -> None:
        records = final_records(self.records())
        known = without_texts(self._run.table(ITEMS, ("task", "id", "group", "cluster")))
        samples = (samples_table(portion, records) for portion in self._run.portions(ITEMS))
        facts = {
            MANIFEST: self._journal_key[2],
            ITEMS: self._run.manifest["items_sha256"],
            SUMMARY: write_file(bundle / SUMMARY, to_json(summary, SUMMARY, indent=1)),
            SAMPLES: write_file(bundle / SAMPLES, portions_to_parquet(samples)),
            STATS: write_file(bundle / STATS, to_parquet(stats_table(known, records))),
        }
        write_file(bundle / DONE, to_json({"schema": SCHEMA, "run": self._run.id, "files": facts}, DONE, indent=1))

    def close(self) -> None:
        """Sync the journal to disk and close it."""
        self._journal.close()


def read_proofs(path: Path) -> list[Mapping[str, Any]]:
    """The proofs of a run's earlier sessions. Raises AssayError if the file is damaged."""
    if not path.exists():
        return []
    found = read_json(path, follow=False)
    validate(ProofsShape, found, path)
    return list(found["sessions"])
