"""How many tokens a task costs, against the rules of lm-eval 0.4.13: counts do not depend on the machine, so they may be asserted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from contracts import tiny_models

from assay.harness.engines import Engine, Settings
from assay.harness.engines.request import ScoreGroup, TokenIds
from tests.bench.tokens import count_of, in_blocks
from tests.contracts.test_vllm_checkpoints import make_tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")

from assay.harness.engines.hf.engine import open_engine

LETTERS = ((5,), (6,), (7,), (8,))


def ids(draw: random.Random, size: int) -> TokenIds:
    return tuple(draw.randrange(10, 97) for _ in range(size))


def few_shot(prefix: int, question: int, answer: int, items: int = 100) -> list[ScoreGroup]:
    """Questions after one fixed set of exemplars; `answer` tokens per choice, 1: letters."""
    draw = random.Random(1)
    stem = ids(draw, prefix)
    return [
        ScoreGroup(
            stem + ids(draw, question + draw.randrange(-9, 10)), LETTERS if answer == 1 else tuple(ids(draw, answer) for _ in range(4))
        )
        for _ in range(items)
    ]


def endings(items: int = 60) -> list[ScoreGroup]:
    """No exemplars, four long endings, as in HellaSwag."""
    draw = random.Random(2)
    return [ScoreGroup(ids(draw, 50), tuple(ids(draw, 28) for _ in range(4))) for _ in range(items)]


CELLS = {
    "mmlu": (few_shot(400, 75, 1), 5, 20),
    "multi-token": (few_shot(400, 60, 4), 10, 10),
    "hellaswag": (endings(), 1.7, 1.7),
    "single-token": ([ScoreGroup(ids(random.Random(seed), 60), LETTERS[:2]) for seed in range(50)], 1, 1),
}
"""Groups, and how many times more tokens lm-eval must at least compute: on transformers, on vLLM."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = open_engine(tiny_models.make(tmp_path_factory.mktemp("llama")), Settings(device="cpu"))
    yield opened
    opened.close()


@pytest.mark.parametrize("cell", CELLS)
def test_transformers_computes_the_ideal_and_so_far_less_than_lm_eval(engine: Engine, cell: str) -> None:
    groups, hf, vllm = CELLS[cell]
    before = engine.stats.computed
    assert len(list(engine.score(groups))) == len(groups)
    computed, count = engine.stats.computed - before, count_of(cell, groups)
    assert computed <= 1.10 * count.ideal
    assert count.lm_eval_hf >= hf * computed and count.lm_eval_vllm >= vllm * computed


@pytest.mark.vllm
def test_vllm_computes_little_more_than_the_ideal_and_as_many_as_its_blocks_require(tmp_path: Path) -> None:
    from assay.harness.engines.vllm_offline import engine as vllm_engine

    engine = vllm_engine.open_engine(make_tiny(tmp_path / "m", 1, max_position_embeddings=1024), Settings())
    try:
        for groups in (CELLS["mmlu"][0], CELLS["multi-token"][0], few_shot(620, 119, 1)):
            assert engine.llm.reset_prefix_cache()
            before = engine.stats.computed
            assert len(list(engine.score(groups))) == len(groups)
            computed, count = engine.stats.computed - before, count_of("", groups)
            assert computed == in_blocks(groups, engine.block)
        assert computed <= 1.20 * count.ideal, "with exemplars and questions as long as MMLU's in the mean"
        assert count.lm_eval_hf >= 5 * computed and count.lm_eval_vllm >= 20 * computed
    finally:
        engine.close()
