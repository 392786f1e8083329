"""The one writer of a run: appends finished items, and turns the journal into results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.atomic import JSON_BYTES, interrupted, to_json, write_file
from assay.harness.files.lock import held
from assay.harness.files.safe_open import read_regular
from assay.harness.store.bundle import DONE, ITEMS, JOURNAL, LOCK, MANIFEST, SAMPLES, SCHEMA, STATS, SUMMARY, read_manifest
from assay.harness.store.journal import Journal, Key, encode_record, final, finite, read_records
from assay.harness.store.read import Run, read_run
from assay.harness.store.record import Record
from assay.harness.store.tables import samples_table, stats_table, to_parquet


@contextmanager
def open_writer(bundle: Path) -> Iterator[Writer]:
    """The writer of a run, which holds the run's lock until the block ends. A complete run opens too, but takes no records.

    Raises Incomplete naming the owner if another process is writing; AssayError if the folder is no run or is damaged.
    """
    bundle = Path(bundle)
    read_manifest(bundle)
    with held(bundle / LOCK):
        writer = Writer(bundle)
        try:
            yield writer
        finally:
            writer.close()


class Writer:
    """Made by `open_writer`."""

    def __init__(self, bundle: Path) -> None:
        self._run: Run = read_run(bundle)
        self._planned = frozenset((item.task, item.id) for item in self._run.items())
        manifest = hashlib.sha256(read_regular(bundle / MANIFEST, JSON_BYTES)).hexdigest()
        self._tie = (bundle / JOURNAL, self._run.id, manifest)
        self._failed: dict[Key, bool] = {}
        self._widths: dict[Key, int] = {}
        for record in self._run.records() if self._complete else read_records(*self._tie):
            self._check(record)
            self._note(record)
        self._journal = Journal(*self._tie)

    @property
    def _complete(self) -> bool:
        return self._run.status == "complete"

    def done(self) -> frozenset[Key]:
        """(task, item) of the items whose final record is no error: what a resumed run need not ask again."""
        return frozenset(key for key, failed in self._failed.items() if not failed)

    def records(self) -> tuple[Record, ...]:
        """The final record of every item that has one, in planned order."""
        return self._run.records()

    def append(self, records: Sequence[Record]) -> None:
        """Adds records to the journal in one write; once this returns, a kill of the process loses none of them.

        A record with a number that is not finite is kept as an error record. Raises AssayError for an item that was not planned or
        statistics whose number differs from that of the metric's other items; Incomplete where the disk refuses (nothing is added then).
        """
        if not records:
            return
        if self._complete:
            raise AssayError("the run is complete and takes no more records", where=str(self._run.path), do="start a new run")
        batch = [finite(record) for record in records]
        for record in batch:
            self._check(record)
        self._journal.append(b"".join(map(encode_record, batch)))
        for record in batch:
            self._note(record)

    def _check(self, record: Record) -> None:
        if (record.task, record.item) not in self._planned:
            raise AssayError(f"item {record.item!r} of {record.task} was not planned", where=str(self._run.path), do="start a new run")
        for metric, stats in record.stats.items():
            width = self._widths.setdefault((record.task, metric), len(stats))
            if width != len(stats):
                raise AssayError(
                    f"{metric} gave {len(stats)} statistics for {record.item!r}, {width} before",
                    where=record.task,
                    do="a metric must give each item equally many statistics",
                )

    def _note(self, record: Record) -> None:
        key = (record.task, record.item)
        self._failed[key] = record.status == "error" and self._failed.get(key, True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the result files, then DONE with the SHA-256 of every file, and only then removes the journal.

        After a kill at any point the same call completes the work; on a complete run it changes nothing. Raises Incomplete if items
        are missing or the disk is full (the journal stays), AssayError if the summary holds a number that is not finite.
        """
        bundle = self._run.path
        if not self._complete:
            if missing := self._planned - self._failed.keys():
                example = "{} {}".format(*min(missing))
                what = f"{len(missing)} of {len(self._planned)} items have no result, for example {example}"
                raise Incomplete(what, where=str(bundle), do=f"go on with: assay resume {bundle.name}")
            self._journal.close()
            try:
                self._write(bundle, summary)
            except OSError as error:
                raise interrupted(error, bundle) from None
            self._run = read_run(bundle)
        for leftover in (bundle / JOURNAL, *bundle.glob(".*.part")):
            leftover.unlink(missing_ok=True)

    def _write(self, bundle: Path, summary: Mapping[str, Any]) -> None:
        items = self._run.items()
        records = final(self._run.records())
        facts = {
            MANIFEST: self._tie[2],
            ITEMS: self._run.manifest["items_sha256"],
            SUMMARY: write_file(bundle / SUMMARY, to_json(summary, SUMMARY, indent=1)),
            SAMPLES: write_file(bundle / SAMPLES, to_parquet(samples_table(items, records))),
            STATS: write_file(bundle / STATS, to_parquet(stats_table(items, records))),
        }
        write_file(bundle / DONE, to_json({"schema": SCHEMA, "run": self._run.id, "files": facts}, DONE, indent=1))

    def close(self) -> None:
        """Syncs what was appended to disk."""
        self._journal.close()
