from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from faults.store_child import TASK, make_items, make_manifest, make_record

from assay.harness.errors import AssayError
from assay.harness.store import create_bundle, open_writer, read_run
from assay.harness.store.journal import decode_record
from assay.harness.store.record import Record


def started(root: Path, count: int = 8) -> tuple[Path, list[Record]]:
    """A run with all records in its journal, in batches of three."""
    items = make_items(count)
    bundle = create_bundle(root, make_manifest(), items)
    records = [make_record(item) for item in items]
    with open_writer(bundle) as writer:
        for start in range(0, count, 3):
            writer.append(records[start : start + 3])
    return bundle, records


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    bundle = create_bundle(tmp_path, make_manifest(), make_items(1))
    odd = {"text": "é \u2028 \n \x00 \ud800 ∑", "logprob": -0.1 + 1e-17, "nested": [[1, None], {"a": True}]}
    record = Record(TASK, "i0", "truncated", odd, {"bleu": (1.0, 0.1, 3e-300)}, 0.25, "cut", 7, 5, 2, 0.5)
    with open_writer(bundle) as writer:
        writer.append([record])
        assert writer.records() == (record,)
        writer.finish({"results": []})
        assert writer.records() == (record,)
    assert read_run(bundle).records() == (record,)


def test_a_last_record_torn_at_any_byte_is_dropped_and_written_again(tmp_path: Path) -> None:
    bundle, records = started(tmp_path)
    journal = bundle / "journal.jsonl"
    whole = journal.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for end in range(start, len(whole)):
        journal.write_bytes(whole[:end])
        assert read_run(bundle).records() == tuple(records[:-1])
        with open_writer(bundle) as writer:
            assert (TASK, records[-1].item) not in writer.done()
            assert journal.read_bytes() == whole[:end]  # reading changes nothing
            writer.append(records[-1:])
        assert journal.read_bytes() == whole


def test_a_header_torn_at_any_byte_is_written_again(tmp_path: Path) -> None:
    bundle, records = started(tmp_path, 1)
    journal = bundle / "journal.jsonl"
    whole = journal.read_bytes()
    for end in range(whole.index(b"\n") + 1):
        journal.write_bytes(whole[:end])
        with open_writer(bundle) as writer:
            assert writer.done() == frozenset()
            writer.append(records)
        assert journal.read_bytes() == whole


def test_every_flipped_bit_is_found_and_its_line_named(tmp_path: Path) -> None:
    bundle, _ = started(tmp_path)
    journal = bundle / "journal.jsonl"
    whole = journal.read_bytes()
    chance = random.Random(1)
    newlines = [at for at, byte in enumerate(whole) if byte == 10]
    for at in [*newlines, *(chance.randrange(len(whole)) for _ in range(100))]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        journal.write_bytes(damaged)
        line = whole[:at].count(b"\n") + 1
        with pytest.raises(AssayError) as caught:
            read_run(bundle).records()
        assert caught.value.where == f"{journal}:{line}"
        with pytest.raises(AssayError), open_writer(bundle):
            pass


def test_a_missing_or_repeated_line_is_not_taken_for_another(tmp_path: Path) -> None:
    bundle, records = started(tmp_path)
    journal = bundle / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], *lines[4:], lines[-1]]))
    with open_writer(bundle) as writer:
        assert {(record.task, record.item) for record in records} - writer.done() == {(TASK, "i2")}
    journal.write_bytes(b"".join(lines[1:]))
    with pytest.raises(AssayError, match="another run"):
        read_run(bundle).records()


def test_a_journal_is_tied_to_its_manifest(tmp_path: Path) -> None:
    bundle, _ = started(tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["model"]["digest"] = "that of other weights"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AssayError, match=r"manifest\.json was changed"), open_writer(bundle):
        pass


@pytest.mark.parametrize(
    ("output", "stats", "correct", "named"),
    [
        ({}, {"accuracy": (math.nan,)}, 1.0, "accuracy[0]"),
        ({}, {"accuracy": (1.0,)}, math.nan, "correct"),
        ({}, {"f1": (1.0, math.inf)}, None, "f1[1]"),
        ({"loglikelihoods": [-1.0, -math.inf]}, {"accuracy": (1.0,)}, 1.0, "output.loglikelihoods"),
        ({"logprob": -math.inf}, {"accuracy": (1.0,)}, 1.0, "output.logprob"),
    ],
)
def test_a_number_that_is_not_finite_makes_an_error_never_a_score(
    tmp_path: Path, output: dict[str, object], stats: dict[str, tuple[float, ...]], correct: float | None, named: str
) -> None:
    bundle = create_bundle(tmp_path, make_manifest(), make_items(1))
    with open_writer(bundle) as writer:
        writer.append([Record(TASK, "i0", "scored", output, stats, correct)])
        (kept,) = writer.records()
        assert (kept.status, kept.stats, kept.correct, kept.error) == ("error", {}, None, f"nonfinite: {named}")
        assert writer.done() == frozenset()
    text = (bundle / "journal.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_an_unknown_log_probability_of_a_text_is_null(tmp_path: Path) -> None:
    bundle = create_bundle(tmp_path, make_manifest(), make_items(1))
    with open_writer(bundle) as writer:
        writer.append([Record(TASK, "i0", "scored", {"text": "x", "logprob": math.nan}, {"f1": (1.0,)}, 1.0)])
        (kept,) = writer.records()
    assert (kept.status, kept.output) == ("scored", {"text": "x", "logprob": None})


def test_the_last_record_that_is_no_error_counts_and_costs_add_up(tmp_path: Path) -> None:
    bundle = create_bundle(tmp_path, make_manifest(), make_items(2))
    tries = [("error", 1.0), ("scored", 2.0), ("scored", 3.0), ("error", 4.0)]
    with open_writer(bundle) as writer:
        for status, number in tries:
            stats = {} if status == "error" else {"f1": (number,)}
            writer.append([Record(TASK, "i0", status, stats=stats, computed=10, seconds=0.5)])  # type: ignore[arg-type]
        writer.append([Record(TASK, "i1", "error", error="first"), Record(TASK, "i1", "error", error="second")])
        good, bad = writer.records()
        assert writer.done() == {(TASK, "i0")}
    assert (good.status, good.stats, good.computed, good.seconds) == ("scored", {"f1": (3.0,)}, 40, 2.0)
    assert (bad.status, bad.error) == ("error", "second")


def test_unplanned_or_invalid_records_are_refused_and_not_written(tmp_path: Path) -> None:
    bundle, _ = started(tmp_path)
    before = (bundle / "journal.jsonl").read_bytes()
    with open_writer(bundle) as writer:
        with pytest.raises(AssayError, match=r"'stranger' of .* was not planned"):
            writer.append([Record(TASK, "stranger", "scored")])
        with pytest.raises(AssayError, match="accuracy returned 2 statistics for 'i0', but 1 for other items"):
            writer.append([Record(TASK, "i0", "scored", stats={"accuracy": (1.0, 2.0)})])
        with pytest.raises(AssayError, match="cannot be written as JSON"):
            writer.append([Record(TASK, "i0", "scored", output={"text": b"bytes"})])
    assert (bundle / "journal.jsonl").read_bytes() == before


def test_a_record_with_a_lone_surrogate_is_refused() -> None:
    record = {"task": "t", "item": "i", "status": "scored", "output": {}, "stats": {}, "correct": None, "error": ""}
    record |= {"logical": 1, "computed": 1, "cached": 0, "seconds": 0.0}
    assert decode_record(record).stats == {}
    with pytest.raises(ValueError, match="surrogates"):
        decode_record(record | {"stats": {"\ud800": [1.0]}})
