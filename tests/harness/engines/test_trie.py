"""The trie: every distinct prefix once, in an order in which a pack needs only one path."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.harness.engines.hf.packing import Capacity, Footprint, ancestor_mask, fitting, score_table, window_mask
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.trie import Trie, count, of_groups, of_prompts

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=7).map(tuple)
GROUPS = st.lists(
    st.builds(ScoreGroup, context=IDS, continuations=st.lists(IDS, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=8
)


def path_to(trie: Trie, token: int) -> tuple[int, ...]:
    """The ids from the root to a token, found by the ancestor rule."""
    before = np.arange(token + 1)
    return tuple(trie.ids[before[trie.end[before] > token]].tolist())


def prefixes(groups: list[ScoreGroup]) -> set[tuple[int, ...]]:
    """All that must be computed: every prefix of context + continuation without its last id."""
    wholes = [group.context + ids[:-1] for group in groups for ids in group.continuations]
    return {whole[:size] for whole in wholes for size in range(1, len(whole) + 1)}


@settings(max_examples=40, deadline=None)
@given(GROUPS)
def test_every_distinct_prefix_occurs_once_at_its_depth(groups: list[ScoreGroup]) -> None:
    trie = of_groups(groups)
    paths = [path_to(trie, token) for token in range(len(trie))]
    assert len(set(paths)) == len(paths)
    assert set(paths) == prefixes(groups)
    assert [len(path) - 1 for path in paths] == trie.depth.tolist()


@settings(max_examples=40, deadline=None)
@given(GROUPS)
def test_rows_are_the_tokens_before_each_scored_token(groups: list[ScoreGroup]) -> None:
    trie = of_groups(groups)
    number = 0
    for group in groups:
        for ids in group.continuations:
            rows = trie.rows[trie.offsets[number] : trie.offsets[number + 1]]
            assert [path_to(trie, row) for row in rows] == [group.context + ids[:place] for place in range(len(ids))]
            number += 1


@settings(max_examples=40, deadline=None)
@given(GROUPS, st.integers(1, 6), st.integers(1, 4))
def test_packs_need_only_the_ancestors_of_their_first_token(groups: list[ScoreGroup], tokens: int, rows: int) -> None:
    """Compute packs as the engine does, with pruning: each token has its whole path in the cache, each row is read once."""
    table = score_table(tuple(groups))
    trie, held, begin, answered = table.trie, np.empty(0, np.int64), 0, []
    while begin < len(trie):
        stop = table.pack_end(begin, Capacity(tokens, rows, 0))
        span = np.arange(begin, stop)
        keys = np.concatenate([held, span])
        mask = ancestor_mask(span, keys, trie.end)
        for query, row in zip(span, mask, strict=True):
            assert tuple(trie.ids[keys[row]].tolist()) == path_to(trie, query)
        wanted = table.wanted(begin, stop)
        assert 0 < len(span) <= tokens
        assert len(wanted.rows) <= rows
        answered.extend(wanted.slots.tolist())
        held, begin = keys[trie.end[keys] > stop], stop
        assert len(held) <= trie.deepest
    assert sorted(answered) == list(range(len(table.targets)))


@settings(max_examples=40, deadline=None)
@given(GROUPS)
def test_leaves_cover_every_token_once_and_spell_whole_sequences(groups: list[ScoreGroup]) -> None:
    trie = of_groups(groups)
    leaves = trie.leaves()
    assert [token for _, begin, stop in leaves for token in range(begin, stop)] == list(range(len(trie)))
    for ids, _, stop in leaves:
        assert tuple(ids.tolist()) == path_to(trie, stop - 1)


@settings(max_examples=40, deadline=None)
@given(GROUPS)
def test_counts(groups: list[ScoreGroup]) -> None:
    tokens = count(groups, [GenRequest((1, 2, 3), 4), GenRequest((1, 2), 4)])
    assert tokens.ideal == len(prefixes(groups)) + 3
    assert tokens.logical == sum(len(group.context) + len(ids) for group in groups for ids in group.continuations) + 5


def test_a_group_is_complete_at_its_last_row() -> None:
    groups = (ScoreGroup((5, 6), ((7, 8), (9,))), ScoreGroup((5,), ((6,),)))
    table = score_table(groups)
    assert table.trie.ids.tolist() == [5, 6, 7]
    assert table.last_rows().tolist() == [2, 0]


def test_no_requests_give_an_empty_trie() -> None:
    assert len(of_groups([])) == len(of_prompts([])) == 0
    assert of_groups([]).leaves() == []


def test_large_ids_sort_and_share_like_numbers() -> None:
    trie = of_prompts([(70_000, 256), (255, 70_000), (70_000, 1), (4_000_000_000,)])
    assert trie.ids.tolist() == [255, 70_000, 70_000, 1, 256, 4_000_000_000]
    assert trie.depth.tolist() == [0, 1, 0, 1, 1, 0]
    assert trie.end.tolist() == [2, 2, 5, 4, 5, 6]


def test_a_task_with_a_shared_stem_costs_its_distinct_tokens() -> None:
    stem = tuple(range(500))
    letters = ((1,), (2,), (3,), (4,))
    groups = [ScoreGroup((*stem, 1000 + number, *stem[:49]), letters) for number in range(200)]
    tokens = count(groups)
    assert tokens.logical == 200 * 4 * 551
    assert tokens.ideal == 500 + 200 * 50


def test_a_window_includes_as_many_positions_as_its_length() -> None:
    depth = np.arange(5)
    assert (window_mask(depth, depth, 2) & (depth[None, :] <= depth[:, None])).sum(1).tolist() == [1, 2, 2, 2, 2]


def test_packs_shrink_with_the_budget_and_never_below_sixteen() -> None:
    foot = Footprint(kv=1000, activation=5000, row=4000, score=8)
    sizes = [fitting(budget, 100, 512, foot).tokens for budget in (1 << 30, 4 << 20, 1 << 20, 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 512
    assert sizes[-1] == 16
    room = fitting(4 << 20, 100, 512, foot)
    spent = 2 * foot.kv * (100 + room.tokens) + foot.activation * room.tokens + foot.score * room.tokens * (100 + room.tokens)
    assert spent + room.rows * foot.row <= 4 << 20
