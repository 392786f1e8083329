"""A model is found, checked without loading it, and identified by its content."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from assay.harness.engines.wire import pack_model, read_model
from assay.harness.errors import AssayError
from assay.harness.model.checkpoint import UNBOUNDED
from assay.harness.model.find import ModelRef, checkpoint_of, find_model
from assay.harness.model.weights import read_header

WIDTH, ROWS = 8, 12
SHAPES = {
    "model.embed_tokens.weight": (ROWS, WIDTH),
    "model.layers.0.self_attn.q_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.mlp.up_proj.weight": (16, WIDTH),
    "model.layers.1.self_attn.q_proj.weight": (WIDTH, WIDTH),
    "model.norm.weight": (WIDTH,),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "vocab_size": ROWS,
    "max_position_embeddings": 64,
}


def write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], fill: bytes = b"\0") -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + fill * end)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def write_tokenizer(folder: Path, size: int = ROWS, added: int | None = None) -> None:
    vocab = {f"t{i}": i for i in range(size)}
    extra = [] if added is None else [{"id": added, "content": "<new>"}]
    write_json(folder / "tokenizer.json", {"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": extra})
    write_json(folder / "tokenizer_config.json", {"eos_token": "t1"})


def make(folder: Path, fill: bytes = b"\0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIG)
    write_tokenizer(folder)
    write_weights(folder / "model.safetensors", SHAPES, fill)
    return folder


def shard(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    names = list(SHAPES)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in files.items():
        write_weights(folder / file, {name: SHAPES[name] for name in held})
    write_json(folder / "model.safetensors.index.json", {"weight_map": {name: file for file, held in files.items() for name in held}})
    return folder


def lora(folder: Path, *, width: int = WIDTH, layer: int = 0) -> Path:
    folder.mkdir()
    module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
    write_weights(folder / "adapter_model.safetensors", {f"{module}.lora_A.weight": (2, width), f"{module}.lora_B.weight": (width, 2)})
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path / "model")


def find(name: Path | str, **options: Any) -> ModelRef:
    return find_model(str(name), cache=Path("unused"), **options)


def refuse(name: Path | str, *words: str, **options: Any) -> str:
    with pytest.raises(AssayError) as caught:
        find(name, **options)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2
    for word in words:
        assert word in message, message
    return message


def test_a_local_folder_is_found_and_counted(model: Path) -> None:
    ref = find(model)
    assert ref.path == model and ref.positions == 64 and ref.revision == ""
    assert ref.parameters == sum(math.prod(shape) for shape in SHAPES.values())


def test_shards_hold_the_same_parameters(model: Path) -> None:
    whole = find(model).parameters
    assert find(shard(model)).parameters == whole


def test_the_digest_is_of_content_only(model: Path, tmp_path: Path) -> None:
    digest = find(model).digest
    copy = Path(shutil.copytree(model, tmp_path / "another name"))
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    (copy / "README.md").write_text("does not count")
    assert find(copy).digest == digest


@pytest.mark.parametrize(
    "file", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
)
def test_the_digest_sees_every_file_that_can_change_a_score(model: Path, file: str) -> None:
    digest = find(model).digest
    if file == "model.safetensors":
        write_weights(model / file, SHAPES, b"\1")
    elif file == "chat_template.jinja":
        (model / file).write_text("{{ messages }}")
    else:
        value = json.loads((model / file).read_text()) if (model / file).is_file() else {}
        write_json(model / file, value | {"changed": 1})
    assert find(model).digest != digest


def test_an_adapter_counts_in_the_digest_and_must_fit(model: Path, tmp_path: Path) -> None:
    good = lora(tmp_path / "good")
    ref = find(model, adapter=good)
    assert ref.adapter == good and ref.digest != find(model).digest
    assert ref.name == f"{find(model).name}+{good}", "a run of the adapter is never taken for one of its base"
    refuse(model, "does not fit", "q_proj", adapter=lora(tmp_path / "wide", width=2 * WIDTH + 1))
    refuse(model, "no module model.layers.7", adapter=lora(tmp_path / "deep", layer=7))
    refuse(model, "no such adapter", adapter=tmp_path / "nowhere")
    refuse(model, "adapter_config.json", adapter=model)
    (good / "adapter_model.safetensors").rename(good / "adapter_model.bin")
    refuse(model, "pickle", "refused", adapter=good)


def test_an_adapter_of_another_local_base_is_noted(model: Path, tmp_path: Path) -> None:
    """Two models of equal shapes: only the adapter's own word tells on which it was trained."""
    adapter = lora(tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())

    def notes_with(base: str) -> tuple[str, ...]:
        write_json(adapter / "adapter_config.json", {**config, "base_model_name_or_path": base})
        return checkpoint_of(find(model, adapter=adapter)).notes

    other = make(tmp_path / "other", fill=b"\1")
    (note,) = notes_with(str(other))
    assert str(other) in note and "differ" in note
    copy = shutil.copytree(model, tmp_path / "copy")
    assert notes_with(str(model)) == notes_with(str(copy)) == notes_with("org/on-a-hub") == notes_with("") == ()


def test_saved_modules_and_soft_prompts_of_an_adapter_must_fit(model: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    write_weights(weights, {"base_model.model.lm_head.weight": (ROWS, WIDTH)})
    assert find(model, adapter=adapter)
    write_weights(weights, {"base_model.model.lm_head.weight": (ROWS + 1, WIDTH)})
    refuse(model, "does not fit", "lm_head", adapter=adapter)
    for kind in ("PROMPT_TUNING", "P_TUNING"):
        write_json(adapter / "adapter_config.json", {"peft_type": kind})
        write_weights(weights, {"prompt_embeddings": (3, WIDTH + 1)})
        refuse(model, "soft prompt of width 9", adapter=adapter)
        write_weights(weights, {"prompt_embeddings": (3, WIDTH)})
        assert find(model, adapter=adapter)


def test_an_unknown_name_gets_a_suggestion(model: Path) -> None:
    refuse("builtin:smollm2-135", "did you mean builtin:smollm2-135m?")
    refuse(model.parent / "modle", f"did you mean {model}?")
    refuse(model.parent, "config.json is missing", f"did you mean {model}?")
    refuse(model / "model.safetensors", "got a file")
    refuse(model, "revision", revision="main")


def test_a_folder_without_a_model_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    refuse(model, "no weights")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refuse(model, "pickle", "refused", "safetensors")
    (model / "config.json").unlink()
    refuse(model, "config.json is missing")


def test_an_adapter_folder_is_not_a_model(tmp_path: Path) -> None:
    refuse(lora(tmp_path / "adapter"), "is an adapter", "base")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def test_every_truncation_of_a_safetensors_file_is_found(model: Path) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    assert len(read_header(path)) == len(SHAPES)
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(AssayError, match="truncated or corrupt"):
            read_header(path)
    path.write_bytes(whole + b"\0")
    refuse(model, "truncated or corrupt")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [4, 20]},
        {"dtype": "X9", "shape": [2, 2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 16]},
        {"shape": [2, 2]},
        [],
    ],
)
def test_a_wrong_header_is_found(model: Path, entry: Any) -> None:
    text = json.dumps({"a": entry}).encode()
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    refuse(model, "truncated or corrupt", "model.safetensors")


def test_broken_shards_are_named(model: Path) -> None:
    shard(model)
    first, second = sorted(model.glob("model-*"))
    truncate(first)
    refuse(model, "truncated", first.name)
    held = {name: tensor.shape for name, tensor in read_header(second).items()}
    first.unlink()
    refuse(model, "1 of 2 shards are missing", first.name)
    write_weights(first, {"other": (1,)})
    refuse(model, "tensor", "is missing", first.name)
    write_json(model / "model.safetensors.index.json", {"weight_map": dict.fromkeys(held, "../x.safetensors")})
    refuse(model, "not a safetensors file of this folder")
    write_json(model / "model.safetensors.index.json", {"weight_map": dict.fromkeys(held, "pytorch_model-00001.bin")})
    refuse(model, "not a safetensors file of this folder")


def test_two_sets_of_weights_are_refused(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    shard(model)
    (model / "model.safetensors").write_bytes(weights)
    refuse(model, "both model.safetensors and an index of shards")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_is_refused_and_its_code_is_not_run(model: Path, file: str) -> None:
    (model / "code.py").write_text(f"from pathlib import Path\nPath({str(model / 'canary')!r}).touch()\n")
    write_json(
        model / file, json.loads((model / file).read_text()) | {"auto_map": {"AutoConfig": "code.Config", "AutoTokenizer": "code.T"}}
    )
    find(model)  # transformers has the Llama architecture itself: the code is not needed
    write_json(model / "config.json", json.loads((model / "config.json").read_text()) | {"model_type": "novel"})
    refuse(model, "its own code", "refused", file)
    write_json(model / "config.json", json.loads((model / "config.json").read_text()) | {"model_type": []})
    refuse(model, "its own code", "refused", file)
    assert not (model / "canary").exists()


def test_an_encoder_decoder_is_refused_in_one_true_line(model: Path) -> None:
    write_json(model / "config.json", CONFIG | {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True})
    refuse(model, "T5ForConditionalGeneration is an encoder-decoder")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["q4.gguf"], "GGUF format (q4.gguf)"),
        (["model.fp16.safetensors", "config.json"], "only a variant of the weights (model.fp16.safetensors)"),
        (["model.fp16-00001-of-00002.safetensors", "config.json"], "variant='fp16'"),
        (["params.json", "consolidated.safetensors", "tekken.json"], "Mistral's own format"),
    ],
)
def test_weights_in_other_formats_are_named(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).write_text(json.dumps(CONFIG))
    refuse(tmp_path, words)


def test_a_model_without_a_limit_of_positions_takes_any_length(model: Path) -> None:
    for limit in (None, 0, -1):
        write_json(model / "config.json", CONFIG | {"max_position_embeddings": limit})
        assert find(model).positions == UNBOUNDED


def test_configuration_and_weights_must_agree(model: Path) -> None:
    write_json(model / "config.json", CONFIG | {"num_hidden_layers": 3})
    refuse(model, "3 layers", "have 2")
    write_json(model / "config.json", CONFIG | {"vocab_size": ROWS + 1})
    refuse(model, "vocab_size 13", "12 rows")
    write_json(model / "config.json", CONFIG | {"architectures": ["BertForMaskedLM"]})
    refuse(model, "not a causal language model")
    (model / "config.json").write_text("{")
    refuse(model, "invalid JSON", "config.json")


def test_the_tokenizer_must_be_there_and_match(model: Path) -> None:
    write_tokenizer(model, ROWS - 2)
    assert find(model)
    write_tokenizer(model, ROWS - 2, added=ROWS)
    assert checkpoint_of(find(model)).last_token == ("<new>", ROWS), "a token without a row matters only where a prompt contains it"
    (model / "tokenizer.json").write_text("{}")
    refuse(model, "no vocabulary")
    (model / "tokenizer.json").unlink()
    refuse(model, "no tokenizer")


def test_a_hub_model_is_read_from_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--tiny"
    snapshot = make(repo / "snapshots" / commit)
    (repo / "blobs").mkdir()
    for path in list(snapshot.iterdir()):  # as on the hub: names are links to blobs
        path.rename(repo / "blobs" / path.name)
        path.symlink_to(Path("../../blobs") / path.name)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    ref = find("someone/tiny", offline=True)
    assert ref.revision == commit and ref.path == snapshot
    assert ref.digest == find(make(tmp_path / "copy")).digest
    refuse("someone/tiny", "network is off", offline=True, revision="v2")
    refuse("someone/other", "network is off", offline=True)


def test_the_folder_is_read_once_into_one_value(model: Path, tmp_path: Path) -> None:
    write_json(model / "generation_config.json", {"eos_token_id": 1})
    ref = find(model, adapter=lora(tmp_path / "adapter"))
    shutil.rmtree(model)
    shutil.rmtree(tmp_path / "adapter")
    checkpoint = checkpoint_of(ref)
    assert checkpoint.config == CONFIG and checkpoint.generation_config == {"eos_token_id": 1}
    assert checkpoint.architectures == ("LlamaForCausalLM",) and checkpoint.positions == 64 and checkpoint.last_token == ("t11", 11)
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == SHAPES
    assert {(tensor.dtype, tensor.file) for tensor in checkpoint.tensors.values()} == {("F32", "model.safetensors")}
    assert checkpoint.weights == (model / "model.safetensors",)
    assert checkpoint.adapter is not None and checkpoint.adapter.kind == "LORA" and len(checkpoint.adapter.tensors) == 2


def test_a_reference_from_another_process_is_read_again(model: Path) -> None:
    ref = find(model)
    sent = read_model(json.loads(json.dumps(pack_model(ref))))
    assert sent == ref and sent.checkpoint is None
    assert checkpoint_of(sent) == ref.checkpoint
