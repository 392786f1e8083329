"""NaN in the weights is named and is no reason to resume; one item that never gives a number does not keep a run from its scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, make_model, place, write_task

from assay import evaluate, read_run
from assay.harness.decide.compare import side_of
from assay.harness.engines.request import ScoreGroup
from assay.harness.engines.scripted import Reply, Request, Scripted, hashed, make_reply
from assay.harness.errors import AssayError, Incomplete, Invalid
from assay.harness.model.find import checkpoint_of, find_model
from assay.harness.model.finite import broken_tensors, check_weights
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.reports.results import marked_name
from assay.harness.run.evaluate import resume
from assay.harness.run.merge import merge
from assay.harness.run.scoring.verify import recompute
from assay.harness.store import check, find_run, query
from assay.harness.store.plan import Plan


def with_value(model: Path, name: str, value: float) -> Path:
    from safetensors.numpy import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights[name] = weights[name].copy()
    weights[name].flat[3] = value
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_tensor_and_its_layer_are_named(tmp_path: Path, value: float) -> None:
    model = with_value(make_model(tmp_path / "m"), "model.layers.0.mlp.up_proj.weight", value)
    ref = find_model(str(model), cache=tmp_path, offline=True)
    with pytest.raises(Invalid, match=r"1 of 512 values of model\.layers\.0\.mlp\.up_proj\.weight, layer 0"):
        check_weights(checkpoint_of(ref))
    check_weights(checkpoint_of(find_model(str(make_model(tmp_path / "whole")), cache=tmp_path, offline=True)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_type_is_read(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    good = torch.tensor([0.0, -0.0, 1e-40, 65504.0, -1.0], dtype=getattr(torch, dtype))
    bad = torch.tensor([1.0, math.nan, math.inf, 2.0], dtype=getattr(torch, dtype))
    if dtype == "bfloat16":
        good = good.clamp(-1e4, 1e4)
    save_file({"good": good, "bad": bad, "count": torch.tensor([2147483647])}, tmp_path / "model.safetensors")
    assert list(broken_tensors(tmp_path / "model.safetensors")) == [("bad", 2, 4)]


@pytest.mark.parametrize("engine", ["hf"])
def test_nan_in_the_weights_exits_with_14_and_no_resume(tmp_path: Path, engine: str) -> None:
    model = with_value(make_model(tmp_path / "m"), "model.norm.weight", math.nan)
    plan = Plan(str(model), (str(write_task(tmp_path, 30)),), engine=engine, device="cpu", allow_failed=True)
    with pytest.raises(AssayError, match=r"NaN") as error:
        evaluate(plan, place(tmp_path))
    assert error.value.exit_code in (2, 14) and "assay resume" not in str(error.value)


def test_logits_that_are_all_nan_with_finite_weights_are_told_as_such(tmp_path: Path) -> None:
    def broken(request: Request) -> Reply:
        return make_reply(request, [math.nan] * 3, "")

    plan = Plan(str(make_model(tmp_path / "m")), (str(write_task(tmp_path, 4)),), engine="scripted")
    with pytest.raises(Invalid, match=r"logits are NaN or infinite for every item .*--dtype float32"):
        evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(broken))


def opener(context: tuple[int, ...]) -> Any:
    def answer(request: Request) -> Reply:
        if isinstance(request, ScoreGroup) and request.context == context:
            return make_reply(request, [math.nan] * len(request.continuations), "")
        return hashed(3)(request)

    return lambda *_: Scripted(answer)


def failing(folder: Path, allow: bool) -> tuple[Plan, Any]:
    plan = Plan(str(make_model(folder / "m")), (str(write_task(folder, 30)),), engine="scripted", allow_failed=allow)
    (context,) = open_tokenizer(folder / "m").encode(["5 + 1 ="])
    return plan, opener(tuple(context))


def check_failed_run(folder: Path, bundle: Path) -> None:
    run = read_run(bundle)
    (result,) = run.summary()["results"]
    assert (result["n"], result["evidence"], run.summary()["evidence"]) == (29, "failed", "failed") and result["value"] is not None
    assert marked_name(result) == "sums ◓" and run.summary()["statuses"]["error"] == 1
    assert query(folder / "results", "SELECT * FROM leaderboard") == []
    assert not check(folder / "results", lambda run: recompute(run, NOWHERE))
    with pytest.raises(Incomplete, match="1 items have errors"):
        side_of(run, NOWHERE)


def test_a_run_with_a_failed_item_finishes_if_that_is_allowed(tmp_path: Path) -> None:
    plan, engine = failing(tmp_path, allow=True)
    check_failed_run(tmp_path, evaluate(plan, place(tmp_path), opener=engine))


def test_a_resumed_run_can_leave_it_out_too(tmp_path: Path) -> None:
    plan, engine = failing(tmp_path, allow=False)
    with pytest.raises(Incomplete, match=r"1 items failed, the first \(sums .*--allow-failed"):
        evaluate(plan, place(tmp_path), opener=engine)
    bundle = find_run(tmp_path / "results", "20")
    assert resume(bundle, place(tmp_path), opener=engine, allow_failed=True) == bundle
    check_failed_run(tmp_path, bundle)


def test_a_merged_run_tells_failed_items_as_its_shards_do(tmp_path: Path) -> None:
    plan, engine = failing(tmp_path, allow=True)
    parts = [evaluate(replace(plan, shard=f"{n}/2"), place(tmp_path), opener=engine) for n in (1, 2)]
    whole, merged = evaluate(plan, place(tmp_path / "whole"), opener=engine), merge(parts, place(tmp_path))
    check_failed_run(tmp_path, merged)
    one, two = (read_run(bundle).summary() for bundle in (whole, merged))
    assert one.keys() == two.keys() and all(one[name] == two[name] for name in ("results", "statuses", "ties", "evidence"))
