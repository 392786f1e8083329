"""The rows of the matrix: a model, a tokenizer, an adapter, a type, and what assay must do."""

from __future__ import annotations

from dataclasses import dataclass

EQUAL = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One case. `refused`: words of the error's line; empty if the scores must equal the library's. `before`: what commit 0914e09 did, if
    it was wrong there."""

    model: str
    tokenizer: str = "bytes"
    adapter: str = ""
    dtype: str = "float32"
    change: str = ""
    """What is changed in the folder of the model after it was saved."""
    refused: str = EQUAL
    before: str = ""

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.model, self.tokenizer, self.adapter, self.change, self.dtype.replace("float", "fp"))))


EQUAL_MODELS = (
    *("llama", "tied", "biased", "yarn", "dynamic", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox"),
    *("gptj", "opt", "falcon", "falcon_alibi", "bloom", "mpt", "stablelm", "olmo2", "cohere2", "starcoder2", "exaone4", "llama4_text"),
    *("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "mamba", "mamba2", "falcon_mamba", "rwkv", "falcon_h1", "qwen3_next"),
    *("qwen3_5_text", "smollm3", "olmo3", "glm4", "granite", "seed_oss", "ernie4_5", "lfm2", "hunyuan_v1_dense", "apertus"),
    *("arcee", "helium", "nemotron", "ministral3", "bitnet", "minimax", "nemotron_h", "recurrent_gemma"),
    *("diffllama", "codegen", "biogpt", "ctrl", "openai-gpt", "persimmon", "phi", "phimoe", "glm"),
    *("dots1", "olmo_hybrid", "granite_swa", "glm4_moe", "flex_olmo", "jetmoe", "doge", "vaultgemma", "cwm", "exaone_moe"),
    *("afmoe", "minimax_m2"),
)
FAULTY_MODELS = (
    Row("longrope", before="4.2 nats"),
    Row("gpt_neo", before="2.2 nats"),
    *(Row(name, before="generation crashed") for name in ("jamba", "bamba", "granitemoehybrid", "xlstm")),
    Row("gemma3n_text", before="a crash"),
    Row("gemma4_text", before="a crash"),
    Row("qwen2_5_vl", before="refused: the model cannot be loaded"),
    Row("qwen3_5"),
    Row("gemma3"),
    Row("llava", before="refused: the model cannot be loaded"),
    Row("bert", refused="not causal", before="scored with attention to the answer, 0.45 nats"),
    Row("roberta", refused="not causal", before="scored with attention to the answer, 0.44 nats"),
    Row("xlnet", refused="not causal", before="39 tokens, but the model has -1 positions"),
    Row("t5", refused="is an encoder-decoder", before="refused: the model cannot be loaded"),
    Row("bart", refused="is an encoder-decoder", before="refused: missing keys"),
    Row("pegasus", refused="is an encoder-decoder", before="refused: missing keys"),
    Row("marian", refused="is an encoder-decoder", before="refused: no causal language model"),
)
FOLDERS = (
    Row("llama", change="auto_map of a native architecture", before="refused"),
    Row("llama", change="auto_map of an unknown architecture", refused="needs its own code", before="refused, also if native"),
    Row("llama", change="no lm_head", refused="lm_head.weight", before="the same with transformers; with vLLM scored, 3 to 1e34 nats"),
    Row("llama", change="no k_proj", refused="k_proj.weight", before="the same with transformers; with vLLM scored, 3 to 1e34 nats"),
    Row("llama", change="a bias that is not used", refused="would ignore 1 tensors", before="scored"),
    Row("llama", change="one layer more", refused="would ignore 1 tensors", before="scored"),
    Row("llama", change="a value head"),
    Row("llama", change="only a variant", refused="only a variant of the weights", before="refused: no weights"),
    Row("llama", change="only GGUF", refused="GGUF format", before="refused: config.json is missing"),
    Row("llama", change="Mistral's format", refused="Mistral's own format", before="refused: config.json is missing"),
    Row("llama", change="generation config that samples"),
    Row("llama", change="a tokenizer that pads on the left"),
    Row("llama", dtype="float16", change="weights that overflow fp16", refused="non-finite log-probability"),
)
TOKENIZERS = (
    Row("llama", "no bos"),
    Row("llama", "neither", before="refused: neither BOS nor EOS"),
    Row("llama", "no letter a", before="BOS lost, 3.4 nats"),
    Row("llama", "unigram"),
    Row("llama", "words"),
    Row("llama", "extra", before="refused: 1 token beyond the table"),
    Row("gpt2", "no bos"),
)
ADAPTERS = (
    *(Row("llama", adapter=kind) for kind in ("LoRA", "rank and alpha patterns", "DoRA", "rsLoRA", "PiSSA", "OLoRA", "trained tokens")),
    *(Row("llama", adapter=kind) for kind in ("saved modules", "saved norms", "IA3", "prompt tuning", "prefix tuning", "VeRA")),
    *(Row("tied", adapter=kind) for kind in ("trained tokens", "saved modules")),
    Row("llama", adapter="LayerNorm tuning"),
    Row("biased", adapter="trained biases"),
    Row("llama", adapter="on embeddings and head", before="refused"),
    Row("tied", adapter="on embeddings and head", before="refused"),
    Row("llama", adapter="replicated layers", before="refused"),
    Row("llama", adapter="added tokens, resized", before="refused"),
    Row("wide", adapter="added tokens, spare rows", before="4.5 nats: the base's tokenizer"),
    Row("llama", adapter="own chat template", before="no chat template found"),
    Row("llama", adapter="chat template alone", refused="no tokenizer", before="scored, template ignored"),
    Row("llama", adapter="names with the adapter's name"),
    Row("llama", adapter="names with _orig_mod", refused="_orig_mod", before="4.0 nats: the base model"),
    Row("llama", adapter="names with module", refused="contains module", before="4.0 nats: the base model"),
    Row("llama", adapter="names with a doubled prefix", refused="twice", before="4.0 nats: the base model"),
    Row("llama", adapter="names without prefix", refused="does not begin", before="4.0 nats: the base model"),
    Row("llama", adapter="unknown names", refused="belong to no module", before="refused by names on disk"),
    Row("llama", adapter="a tensor more", refused="belong to no module", before="refused by names on disk"),
    Row("llama", adapter="half of the tensors", refused="incomplete", before="3.2 nats"),
    Row("llama", adapter="activated LoRA", refused="activated LoRA", before="scored: applied to the wrong tokens"),
    Row("llama", adapter="pickle", refused="pickle"),
    Row("mixtral", adapter="on the router", before="refused by names on disk"),
    Row("gemma3", adapter="on the language side", before="refused by names on disk"),
    Row("qwen3_5", adapter="on the language side", before="refused: does not fit this model"),
    Row("qwen3_5_text", adapter="on linear attention", before="refused by names on disk"),
    Row("longrope", adapter="on qkv", before="2.8 nats"),
)
TYPES = tuple(
    Row(model, adapter=adapter, dtype=dtype)
    for dtype in ("bfloat16", "float16")
    for model, adapter in (("llama", ""), ("llama", "LoRA"), ("gemma2", ""), ("mamba", ""))
)
ROWS = (*(Row(model) for model in EQUAL_MODELS), *FAULTY_MODELS, *FOLDERS, *TOKENIZERS, *ADAPTERS, *TYPES)
DEFAULT = (
    *("longrope", "gpt_neo", "gemma4_text", "qwen2_5_vl", "bert", "mamba"),
    *(
        "added tokens, resized",
        "names with _orig_mod",
        "half of the tensors",
        "unknown names",
        "prompt tuning",
        "activated LoRA",
        "on embeddings and head",
    ),
    *("a bias that is not used", "no lm_head", "auto_map of a native architecture", "on the router"),
)
"""A part of the rows that runs in the default tests: the first row with each of these as model, adapter or change."""
