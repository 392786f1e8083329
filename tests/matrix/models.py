"""Tiny random models of many architectures, made from their configurations; every window and chunk is shorter than the longest prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.matrix.tokenizers import SIZE

WINDOW = 16
SWITCH = 48
"""Tokens at which the tiny LongRoPE model takes its long factors."""
COMMON: dict[str, Any] = {
    "vocab_size": SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96,
    "n_positions": 512, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512, "num_layers": 2, "num_heads": 4, "ffn_dim": 96,
    "word_embed_proj_dim": 64, "rotary_dim": 8, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 32,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "sliding_window": WINDOW, "state_size": 16,
    "chunk_size": WINDOW, "attention_chunk_size": WINDOW, "mamba_d_state": 16, "mamba_expand": 2, "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_n_groups": 1, "mamba_chunk_size": WINDOW, "mamba_d_ssm": 128, "attention_hidden_size": 64, "shared_expert_intermediate_size": 32,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "lru_width": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "use_mamba_kernels": False, "query_pre_attn_scalar": 16,
    "vocab_size_per_layer_input": SIZE, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0, "d_ff": 96, "d_kv": 16,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
}  # fmt: skip
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0 + 3 * n for n in range(8)]}
HALF = {"rope_type": "default", "rope_theta": 10000.0}
SPECIAL: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 24},
    "phi3": {"rope_parameters": HALF},
    "longrope": {"rope_scaling": LONGROPE, "original_max_position_embeddings": SWITCH},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1},
    "mamba": {"use_mambapy": False},
    "gemma4_text": {"global_head_dim": 32, "num_global_key_value_heads": 2, "enable_moe_block": False},
    "mistral": {}, "qwen2": {"use_sliding_window": False}, "t5": {"decoder_start_token_id": 1},
    "falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "falcon_alibi": {"new_decoder_architecture": False, "multi_query": True, "alibi": True},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    "biased": {"attention_bias": True, "mlp_bias": True}, "tied": {"tie_word_embeddings": True},
    "granitemoehybrid": {"layer_types": ["mamba", "mamba"]}, "xlstm": {"num_blocks": 2},
    "deepseek_v3": {"num_key_value_heads": 4, "head_dim": 8},
}  # fmt: skip
TYPES = {"longrope": "phi3", "falcon_alibi": "falcon", "yarn": "llama", "dynamic": "llama", "biased": "llama", "tied": "llama"}
"""Model types of the names that are not a model type themselves."""
CLASSES = {"bert": "BertLMHeadModel", "roberta": "RobertaForCausalLM", "xlnet": "XLNetLMHeadModel", "t5": "T5ForConditionalGeneration",
           "bart": "BartForConditionalGeneration", "pegasus": "PegasusForConditionalGeneration", "marian": "MarianMTModel"}  # fmt: skip
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28, "patch_size": 14}
TEXT_CONFIG = {"vocab_size": SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
               "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip


def wrapper(kind: str) -> Any:
    """The configuration of a multimodal model with a tiny language side."""
    import transformers as hub

    if kind == "qwen2_5_vl":
        rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
        vision = {"hidden_size": 32, "depth": 1, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
        ids = {"image_token_id": 300, "video_token_id": 301, "vision_start_token_id": 302, "vision_end_token_id": 303}
        return hub.Qwen2_5_VLConfig(text_config={**TEXT_CONFIG, "rope_parameters": rope}, vision_config=vision, **ids)
    if kind == "qwen3_5":
        text = {key: value for key, value in config_of("qwen3_5_text").to_dict().items() if key != "model_type"}
        vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
        ids = {"image_token_id": 300, "video_token_id": 301, "vision_start_token_id": 302, "vision_end_token_id": 303}
        return hub.Qwen3_5Config(text_config=text, vision_config=vision, **ids)
    if kind == "gemma3":
        text = {**TEXT_CONFIG, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
        ids = {"mm_tokens_per_image": 4, "image_token_index": 300, "boi_token_index": 301, "eoi_token_index": 302}
        return hub.Gemma3Config(text_config=text, vision_config=VISION, **ids)
    text, vision = hub.LlamaConfig(**TEXT_CONFIG), hub.CLIPVisionConfig(**VISION)
    return hub.LlavaConfig(text_config=text, vision_config=vision, image_token_index=300)


WRAPPERS = ("qwen2_5_vl", "qwen3_5", "gemma3", "llava")


def config_of(kind: str) -> Any:
    from transformers import CONFIG_MAPPING

    if kind in WRAPPERS:
        return wrapper(kind)
    made = CONFIG_MAPPING[TYPES.get(kind, kind)]
    default = made().to_dict()
    chosen = {key: value for key, value in COMMON.items() if key in default} | SPECIAL.get(kind, {})
    layers = default.get("layer_types")
    if isinstance(layers, list) and layers and "layer_types" not in chosen:
        chosen["layer_types"] = (list(dict.fromkeys(layers)) * 2)[:2]
    return made(**chosen)


def save_model(kind: str, folder: Path, seed: int = 0, spread: float = 0.2) -> Any:
    """Write a random model whose weights are large enough that every part of it matters."""
    import torch
    import transformers

    config = config_of(kind)
    torch.manual_seed(seed)
    if kind in CLASSES:
        model = getattr(transformers, CLASSES[kind])(config)
    else:
        auto = transformers.AutoModelForImageTextToText if kind in WRAPPERS else transformers.AutoModelForCausalLM
        model = auto.from_config(config)
    for name, tensor in model.named_parameters():
        if tensor.dim() > 1 and not any(part in name for part in ("A_log", "conv1d", "dt_")):
            tensor.data.copy_(torch.randn(tensor.shape) * spread)
        elif tensor.dim() == 1 and "bias" in name:
            tensor.data.copy_(torch.randn(tensor.shape) * 0.05)
    model.eval().save_pretrained(folder)
    return model


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_config(folder: Path, **changes: Any) -> None:
    change_json(folder / "config.json", **changes)


def change_tensors(folder: Path, drop: tuple[str, ...] = (), add: dict[str, tuple[int, ...]] | None = None, scale: float = 1.0) -> None:
    """Remove tensors from a checkpoint, or add tensors (or replace them) whose values are all `scale`."""
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name not in drop}
    tensors |= {name: torch.full(shape, scale) for name, shape in (add or {}).items()}
    save_file(tensors, path, metadata={"format": "pt"})
