"""Arguments for vLLM's engine and transformers' from_pretrained. Run: pytest tests/harness/engines/test_arguments.py"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.engines.arguments import ALLOWED, accepted, check_arguments, library_of, parse_arguments, positions_with
from assay.harness.run.evaluate import resume, settings_of

UNSAFE = ("worker_cls", "load_format", "log_config_file", "spec_model", "hf_overrides")


def test_values_are_json_where_they_can_be() -> None:
    found = parse_arguments(["a=1", "b=0.5", "c=true", "d=False", "e=fp8", 'f={"x": [1]}', "g=", "h=a=b"])
    assert found == {"a": 1, "b": 0.5, "c": True, "d": False, "e": "fp8", "f": {"x": [1]}, "g": "", "h": "a=b"}


@pytest.mark.parametrize(
    ("engine", "argument", "what"),
    [
        ("hf", "attn_implementaton=eager", r"transformers has no argument 'attn_implementaton'.*did you mean attn_implementation\?"),
        ("hf", "max_position_embedings=1", r"did you mean max_position_embeddings\?"),
        ("hf", "rope_theta=1", "rope_theta is never passed on.*changes the model or runs code.*a copy of its folder"),
        ("hf", "attn_implementation=someone/kernels", "is not transformers' own.*eager, sdpa"),
        ("hf", 'quantization_config={"quant_method": "gptq", "tokenizer": "a"}', "not passed on.*load_in_4bit"),
        ("hf", "quantization_config=x", "not passed on"),
        ("child:hf", "dtype=float16", "use --dtype"),
        ("hf", "trust_remote_code=true", "never passed on"),
        ("hf", "weights_only=false", "never passed on"),
        ("hf", "_commit_hash=x", "never passed on"),
        ("vllm", "worker_cls=os.system", "never passed on"),
        ("vllm", "load_format=dummy", "never passed on"),
        ("vllm", "log_config_file=a", "never passed on"),
        ("vllm", "spec_model=a", "never passed on"),
        ("vllm", "hf_overrides={}", "never passed on"),
        ("vllm", "tensor_parallel_size=2", "use --tensor-parallel"),
        ("scripted", "a=1", "takes no arguments"),
        ("hf", "eager", "is not key=value"),
        ("hf", "=eager", "is not key=value"),
    ],
)
def test_an_argument_that_is_not_accepted_is_refused_by_name(
    engine: str, argument: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library_of(engine) == "vllm":
        monkeypatch.setattr("assay.harness.engines.arguments.accepted", lambda library: {"kv_cache_dtype", *UNSAFE})
    with pytest.raises(AssayError, match=what):
        check_arguments(engine, [argument], {"rope_theta": 10000, "max_position_embeddings": 512})


def test_a_shorter_context_is_known_before_the_model_is_loaded(tmp_path: Path) -> None:
    assert positions_with(["max_model_len=64"], 512) == 64 == positions_with(["max_position_embeddings=64"], 64)
    assert positions_with(["max_model_len=-1"], 512) == 512 == positions_with(["max_model_len=4096"], 512)
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(write_task(tmp_path, 12)),), engine="hf", device="cpu")
    with pytest.raises(AssayError, match="context of 4 tokens"):
        evaluate(replace(plan, engine_args=("max_position_embeddings=4",)), place(tmp_path))


def test_double_arguments_are_refused() -> None:
    with pytest.raises(AssayError, match="given twice"):
        parse_arguments(["a=1", "a=2"])


def test_what_the_installed_library_accepts_is_read_from_its_source() -> None:
    assert {"attn_implementation", "device_map", "quantization_config"} <= accepted("transformers")
    check_arguments("hf", ["attn_implementation=eager", "max_position_embeddings=5"], {"max_position_embeddings": 10})
    check_arguments("hf", ['quantization_config={"load_in_4bit": true}', "device_map=auto"], {})


@pytest.mark.vllm
def test_what_the_installed_vllm_accepts_is_read_from_its_source() -> None:
    wanted = {"kv_cache_dtype", "max_model_len", "quantization", "gpu_memory_utilization", "enforce_eager"}
    assert wanted <= accepted("vllm") & ALLOWED["vllm"]
    assert ALLOWED["vllm"] - accepted("vllm") <= {"swap_space"}, "older versions alone have it"
    with pytest.raises(AssayError, match=r"did you mean gpu_memory_utilization\?"):
        check_arguments("vllm", ["gpu_memory_utilisation=0.5"], {})


def test_an_argument_reaches_the_library_and_the_signature(tmp_path: Path) -> None:
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(write_task(tmp_path, 12)),), engine="hf", device="cpu")
    plain = read_run(evaluate(plan, place(tmp_path)))
    eager = read_run(evaluate(replace(plan, engine_args=("attn_implementation=eager",)), place(tmp_path)))
    assert eager.manifest["plan"]["engine_args"] == ["attn_implementation=eager"]
    assert "|engine_args:attn_implementation=eager|" in eager.summary()["results"][0]["signature"]
    assert "engine_args" not in plain.summary()["results"][0]["signature"]
    with pytest.raises(AssayError, match="rms_norm_eps is never passed on"):
        evaluate(replace(plan, engine_args=("rms_norm_eps=9.0",)), place(tmp_path))
    assert Plan.from_json(eager.manifest["plan"]).engine_args == ("attn_implementation=eager",)
    assert resume(eager.path, place(tmp_path)) == eager.path


def test_a_value_that_the_library_refuses_is_one_clear_error(tmp_path: Path) -> None:
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(write_task(tmp_path, 12)),), engine="hf", device="cpu")
    with pytest.raises(AssayError, match="nonsense"):
        evaluate(replace(plan, engine_args=("attn_implementation=nonsense",)), place(tmp_path))


def test_another_library_gets_no_arguments() -> None:
    plan = Plan(model="m", tasks=("t",), engine_args=("a=1",), data_parallel=3)
    assert settings_of(plan).arguments == ("a=1",) and settings_of(plan, arguments=False).arguments == ()
    assert settings_of(plan).data_parallel == 3
    with pytest.raises(AssayError, match="--data-parallel 0"):
        replace(plan, data_parallel=0)
