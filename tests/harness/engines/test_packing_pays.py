"""When the transformers engine packs the prompts of texts, and when the library's own loop is cheaper."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from assay.harness.engines.hf.generate import LONG, pays


@pytest.mark.parametrize(
    ("device", "shared", "own", "packed"),
    [
        ("cpu", 0, LONG - 1, True),  # short prompts gain from batches although they share nothing
        ("cpu", 0, LONG, False),
        ("cuda", 0, LONG, True),
        ("cpu", LONG, LONG, True),  # examples that all prompts share are computed once
        ("cpu", 8, LONG, False),
    ],
)
def test_long_prompts_that_share_little_are_not_packed_on_a_cpu(device: str, shared: int, own: int, packed: bool) -> None:
    notes: list[str] = []
    run = SimpleNamespace(model=SimpleNamespace(device=SimpleNamespace(type=device)), note=notes.append)
    prompts = [(1,) * shared + (number,) * own for number in (2, 3, 4)]
    assert pays(run, prompts) is packed  # type: ignore[arg-type]
    assert bool(notes) is not packed


def test_nothing_is_noted_without_prompts() -> None:
    notes: list[str] = []
    run = SimpleNamespace(model=SimpleNamespace(device=SimpleNamespace(type="cpu")), note=notes.append)
    assert pays(run, []) and not notes  # type: ignore[arg-type]
