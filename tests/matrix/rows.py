"""The rows of the matrix: a model, a tokenizer, an adapter, a type, and what assay must do."""

from __future__ import annotations

from dataclasses import dataclass

EQUAL = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One case. `refused`: words of the error's line; empty if the scores must equal the library's. `before`: what assay did earlier."""

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
    *("arcee", "helium", "nemotron", "ministral3", "bitnet", "minimax", "jamba", "bamba", "nemotron_h", "recurrent_gemma"),
    *("gemma3n_text", "diffllama", "codegen", "biogpt", "ctrl", "openai-gpt", "persimmon", "phi", "phimoe", "glm"),
    *("dots1", "olmo_hybrid", "granite_swa", "glm4_moe", "flex_olmo", "jetmoe", "doge", "vaultgemma", "cwm", "exaone_moe"),
    *("afmoe", "minimax_m2"),
)
FAULTY_MODELS = (
    Row("longrope", before="4.9 nats, exit 0"),
    Row("gpt_neo", before="1.6 nats, exit 0; a crash above 512 tokens"),
    Row("gemma4_text", before="crash, exit 13 with a resume that cannot succeed"),
    Row("granitemoehybrid", before="generation crashed, exit 13"),
    Row("xlstm", before="generation crashed, exit 13"),
    Row("qwen2_5_vl", before="refused"),
    Row("qwen3_5", before="scored"),
    Row("gemma3", before="scored"),
    Row("llava", before="refused"),
    Row("bert", refused="not causal", before="scored with attention to the answer, exit 0"),
    Row("roberta", refused="not causal", before="scored with attention to the answer, exit 0"),
    Row("xlnet", refused="not causal", before="context of 0 tokens"),
    Row("t5", refused="is an encoder-decoder", before="context of 0 tokens"),
    Row("bart", refused="is an encoder-decoder", before="missing keys"),
    Row("pegasus", refused="is an encoder-decoder", before="missing keys"),
    Row("marian", refused="is an encoder-decoder", before="not a causal language model"),
)
FOLDERS = (
    Row("llama", change="auto_map of a native architecture", before="refused"),
    Row("llama", change="auto_map of an unknown architecture", refused="needs its own code"),
    Row("llama", change="no lm_head", refused="lm_head.weight", before="vLLM: 3 nats to 1e34 nats, exit 0"),
    Row("llama", change="no k_proj", refused="k_proj.weight", before="vLLM: 3 nats to 1e34 nats, exit 0"),
    Row("llama", change="a bias that is not used", refused="would ignore 1 tensors", before="a note"),
    Row("llama", change="one layer more", refused="would ignore 1 tensors", before="a note"),
    Row("llama", change="a value head", before="scored"),
    Row("llama", change="only a variant", refused="only a variant of the weights", before="no model.safetensors"),
    Row("llama", change="only GGUF", refused="GGUF format", before="config.json is missing"),
    Row("llama", change="Mistral's format", refused="Mistral's own format", before="config.json is missing"),
    Row("llama", change="generation config that samples", before="scored"),
    Row("llama", change="a tokenizer that pads on the left"),
    Row("llama", dtype="float16", change="weights that overflow fp16", refused="non-finite log-probability", before="the same"),
)
TOKENIZERS = (
    Row("llama", "no bos"),
    Row("llama", "neither", before="refused"),
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
    Row("wide", adapter="added tokens, spare rows", before="3.2 nats, exit 0: the base's tokenizer"),
    Row("llama", adapter="own chat template", before="no chat template"),
    Row("llama", adapter="chat template alone", refused="no tokenizer", before="ignored"),
    Row("llama", adapter="names with the adapter's name"),
    Row("llama", adapter="names with _orig_mod", refused="_orig_mod", before="6.4 nats, exit 0: the base model"),
    Row("llama", adapter="names with module", refused="contains module", before="6.4 nats, exit 0: the base model"),
    Row("llama", adapter="names with a doubled prefix", refused="twice", before="6.4 nats, exit 0: the base model"),
    Row("llama", adapter="names without prefix", refused="does not begin", before="6.4 nats, exit 0: the base model"),
    Row("llama", adapter="unknown names", refused="belong to no module", before="refused by names on disk"),
    Row("llama", adapter="a tensor more", refused="belong to no module", before="refused by names on disk"),
    Row("llama", adapter="half of the tensors", refused="incomplete", before="3.2 nats, exit 0"),
    Row("llama", adapter="activated LoRA", refused="activated LoRA", before="7.2 nats, exit 0: wrong tokens"),
    Row("llama", adapter="pickle", refused="pickle"),
    Row("mixtral", adapter="on the router", before="refused by names on disk"),
    Row("gemma3", adapter="on the language side", before="refused by names on disk"),
    Row("qwen3_5", adapter="on the language side", before="refused: does not fit this model"),
    Row("qwen3_5_text", adapter="on linear attention", before="refused by names on disk"),
    Row("longrope", adapter="on qkv", before="4.9 nats, exit 0"),
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
