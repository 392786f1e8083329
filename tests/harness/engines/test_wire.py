"""What crosses the pipe to an engine's process arrives as it was. Run: pytest tests/harness/engines/test_wire.py"""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from assay.harness.engines.request import GenRequest, ScoreGroup, TokenIds, packed_alike
from assay.harness.engines.trie import sortable
from assay.harness.engines.wire import line, pack_request, read_generation, read_group

LARGE = tuple(range(0, 300_000, 7))


@pytest.mark.parametrize("group", [ScoreGroup((1,), ((2,), (3, 4))), ScoreGroup(LARGE, (LARGE, (0, 2**31 - 1)), greedy=True)])
def test_a_score_group_arrives_as_it_was(group: ScoreGroup) -> None:
    found = read_group(json.loads(line({"ask": pack_request(group)}))["ask"])
    assert found == group and found.key == group.key


@pytest.mark.parametrize("request_", [GenRequest((5,), 3), GenRequest(LARGE, 9, ("\n", "é"), 0.7, 11, (2, 70_000), 0.9)])
def test_a_generation_request_arrives_as_it_was(request_: GenRequest) -> None:
    found = read_generation(json.loads(line({"ask": pack_request(request_)}))["ask"])
    assert found == request_ and found.key == request_.key


def test_token_ids_take_a_third_less_space_than_as_numbers() -> None:
    ids = tuple(range(100_000, 101_000))
    assert len(line({"ask": pack_request(GenRequest(ids, 1))})) < 0.8 * len(json.dumps(ids))


@pytest.mark.parametrize("before", [(), LARGE[:9], (*LARGE, 7), (*LARGE[:30_000], 5, 5), LARGE])
def test_packed_ids_are_their_tuple_in_all_but_memory(before: TokenIds) -> None:
    short = (5, 6)
    _, ids, other = packed_alike((before, LARGE, short))
    assert ids == LARGE and {LARGE: 1}[ids] and hash(ids) == hash(LARGE) and ids != short and repr(other) == "(5, 6)"
    assert (ids[3], ids[-1], len(ids)) == (21, LARGE[-1], len(LARGE)) and ids[:2] == (0, 7)
    assert ids + short == LARGE + short and short + ids == short + LARGE and tuple(ids) == LARGE and max(ids) == LARGE[-1]
    group, same = ScoreGroup(ids, (short,)), ScoreGroup(LARGE, (short,))
    assert group == same and group.key == same.key and line({"ask": pack_request(group)}) == line({"ask": pack_request(same)})
    assert sortable(ids) == sortable(LARGE) and copy.deepcopy(ids) == LARGE


def test_prompts_with_equal_beginnings_hold_them_once() -> None:
    prompts = [(*range(900), number) for number in range(50)]
    found = list(packed_alike(prompts))
    assert found == prompts and len(pickle.dumps(found)) < 3 * len(pickle.dumps(found[:1]))
