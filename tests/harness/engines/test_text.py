"""The text of a response is the same in every engine for the same ids and stops. Run: pytest tests/harness/engines/test_text.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assay.harness.engines import Settings
from assay.harness.engines.hf.engine import open_engine
from assay.harness.engines.hf.generate import nucleus
from assay.harness.engines.request import GenRequest
from assay.harness.engines.text import TextDecoder
from tests.contracts.engine_contract import texts
from tests.contracts.tiny_models import make


class Words:
    """Id n is the word "w<n> "; id 1 is a special token, which decoding drops; id 2 ends a text and is not special."""

    def decode(self, ids: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert skip_special_tokens and not clean_up_tokenization_spaces
        return "".join({1: "", 2: "</s>"}.get(id, f"w{id} ") for id in ids)


@pytest.mark.parametrize(
    ("ids", "request_", "text"),
    [
        ((5, 6, 2), GenRequest((4,), 9, ends=(2,)), "w5 w6 "),
        ((5, 6, 2), GenRequest((4,), 9), "w5 w6 "),
        ((5, 2, 6, 7), GenRequest((4,), 9, ends=(7,)), "w5 </s>w6 "),
        ((5, 1), GenRequest((4,), 9, ("special",), ends=(1, 2)), "w5 "),
        ((5, 6, 7), GenRequest((4,), 9, ("7", "6"), ends=(2,)), "w5 w"),
        ((), GenRequest((4,), 9, ends=(2,)), ""),
    ],
)
def test_end_tokens_and_stop_strings_are_not_part_of_the_text(ids: tuple[int, ...], request_: GenRequest, text: str) -> None:
    assert TextDecoder(Words(), frozenset({2})).response(request_, ids) == text


def test_a_response_ends_at_the_ids_of_its_request(tmp_path: Path) -> None:
    engine = open_engine(make(tmp_path), Settings(device="cpu", dtype="float32"))
    (free,) = texts(engine, [GenRequest((3, 4, 5), 12, ends=(0,))])
    assert len(free.tokens) == 12 or free.finish == "stop"
    for number in (2, 5):
        end = free.tokens[number]
        first = free.tokens.index(end)
        (reply,) = texts(engine, [GenRequest((3, 4, 5), 12, ends=(0, end))])
        assert reply.tokens == free.tokens[: first + 1] and reply.finish == "stop"
        assert reply.text == engine.decoder().text((3, 4, 5), free.tokens[:first])


def test_the_nucleus_is_the_smallest_set_with_the_probability() -> None:
    import torch

    weights = torch.tensor([0.1, 0.5, 0.15, 0.25])
    for top_p, kept in ((1.0, [0, 1, 2, 3]), (0.95, [0, 1, 2, 3]), (0.9, [1, 2, 3]), (0.75, [1, 3]), (0.5, [1]), (0.01, [1])):
        found: Any = nucleus(weights.clone(), top_p)
        assert found.nonzero().flatten().tolist() == kept, top_p
        assert torch.equal(found[kept], weights[kept])
