"""Find NaN and infinity in a checkpoint's weights, to say why a model gives no finite numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.errors import Invalid
from assay.harness.model.checkpoint import Checkpoint

EXPONENTS = {
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F800000),
    "F64": (np.uint64, 0x7FF0000000000000),
}
"""Unsigned type and exponent bits by type in a safetensors file: all of them are set in NaN and infinity."""
CHUNK = 1 << 22
"""Values read at once."""


def check_weights(checkpoint: Checkpoint) -> None:
    """Raises Invalid (exit code 14) naming the first tensor, and its layer, that holds NaN or infinity. Reads every weight once."""
    files = list(checkpoint.weights)
    if checkpoint.adapter is not None:
        files += [path for path in checkpoint.adapter.files.values() if path.suffix == ".safetensors"]
    broken = [(path, *found) for path in files for found in broken_tensors(path)]
    if not broken:
        return
    path, name, count, size = broken[0]
    layer = re.search(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.", name)
    place = f", layer {layer[1]}" if layer else ""
    more = f"; {len(broken) - 1} more tensors do too" if len(broken) > 1 else ""
    what = f"the weights hold NaN or infinity: {count:,} of {size:,} values of {name}{place}{more}"
    raise Invalid(what, where=str(path), do="train or convert the checkpoint again; this run cannot be resumed to a score")


def broken_tensors(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, number of values that are not finite, and size of each such tensor of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries: dict[str, Any] = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    for name, entry in sorted(entries.items(), key=lambda pair: pair[1]["data_offsets"][0]):
        if entry["dtype"] not in EXPONENTS:
            continue
        kind, exponent = EXPONENTS[entry["dtype"]]
        start, stop = entry["data_offsets"]
        size = (stop - start) // np.dtype(kind).itemsize
        if not size:
            continue
        values = np.memmap(path, dtype=kind, mode="r", offset=8 + length + start, shape=(size,))
        mask = kind(exponent)
        count = sum(int(((values[at : at + CHUNK] & mask) == mask).sum()) for at in range(0, size, CHUNK))
        if count:
            yield name, count, size
