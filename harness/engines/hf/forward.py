"""Two forward passes of a transformers model: packed (many branches of a trie at once) and plain (padded rows).

The packed pass keeps the keys and values of the current path. An additive 4D mask restricts every token to its ancestors, so its logits
equal those of a plain forward over its path, up to the order of floating-point sums.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from assay.harness.engines.hf.packing import Footprint, window_mask
from assay.harness.errors import redact


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means out of memory, on a CPU or a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without secrets."""
    lines = str(error).strip().splitlines()
    return redact(lines[0] if lines else type(error).__name__)[:300]


@dataclass(frozen=True, slots=True)
class Attention:
    """A model's attention: the kinds of its layers and its sliding window. `obstacle`: why packing is impossible, if it is.

    `switch`: length in tokens above which the rope of every position is another one (LongRoPE); 0 if there is none.
    """

    kinds: frozenset[str]
    window: int | None
    obstacle: str = ""
    switch: int = 0


PADDED = {"full_attention", "sliding_attention", "chunked_attention", "linear_attention", "hybrid", "mamba", "recurrent", "conv"}
"""Kinds of layers for which a forward over padded sequences is known to give the scores of each alone."""


def attention_of(model: Any) -> Attention:
    """A model's attention as its configuration describes it. The self-test checks it."""
    config = model.config.get_text_config()
    window = setting(config, "sliding_window") or None
    kinds = frozenset(getattr(config, "layer_types", None) or ())
    if not kinds:
        kinds = frozenset({"sliding_attention" if window else "full_attention"})
    accepted = inspect.signature(model.forward).parameters
    obstacle = ""
    if others := kinds - {"full_attention", "sliding_attention"}:
        obstacle = f"{', '.join(sorted(others))} layers"
    elif "local" in (getattr(config, "attention_layers", None) or ()):
        obstacle = "local attention counts places in the cache, not positions"
    elif "sliding_attention" in kinds and window is None:
        obstacle = "sliding layers without a window"
    elif not {"position_ids", "past_key_values", "logits_to_keep"} <= accepted.keys():
        obstacle = "no key-value cache or explicit positions"
    return Attention(kinds, window, obstacle, rope_switch(config))


def rope_switch(config: Any) -> int:
    """The longest sequence that LongRoPE computes with its short factors; 0 for a rope that does not depend on the length."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(inner for inner in rope.values() if isinstance(inner, dict))] if isinstance(rope, dict) else []
    lengths = [
        int(each.get("original_max_position_embeddings") or setting(config, "original_max_position_embeddings"))
        for each in kinds
        if each.get("rope_type") == "longrope"
    ]
    return min(lengths, default=0)


def setting(config: Any, *names: str) -> int:
    """The first of some numbers in a configuration; the largest over the layers where each layer has its own; 0 if there is none."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception:  # transformers refuses to name one value if layers differ (its class has no public name)
            value = max((getattr(layer, name, None) or 0 for layer in config.per_layer_config), default=0)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def footprint(model: Any, kv: int) -> Footprint:
    """An upper estimate of bytes per token: `kv` is measured, the rest computed from the configuration."""
    config = model.config.get_text_config()
    wide = model.dtype.itemsize
    hidden = setting(config, "hidden_size") or 1024
    inner = setting(config, "intermediate_size", "ffn_dim") or 4 * hidden
    heads = setting(config, "num_attention_heads") or 16
    across = heads * (setting(config, "head_dim") or hidden // heads)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    # A fused attention kernel allocates only the mask; an unfused one allocates fp32 scores and weights of all heads.
    fused = getattr(config, "_attn_implementation", "") == "sdpa" and model.device.type == "cpu"
    score = 2 * wide if fused else (2 * heads * 4 + wide)
    return Footprint(kv=max(1, kv), activation=wide * (8 * hidden + 4 * inner + 6 * across), row=vocabulary * (2 * wide + 8), score=score)


@dataclass(slots=True)  # house: a cache that grows and is pruned in place
class BranchCache:
    """The keys and values of some tokens of a trie, and the forward pass that adds to them.

    `slots` [k] is the token in each cached position; `depth` [k] is its position in its sequence. A soft prompt comes before every
    sequence: `virtual` positions with slot -1 and negative depth, which every token attends to.
    """

    model: Any
    attention: Attention
    slots: Any
    depth: Any
    cache: Any = field(default=None)
    virtual: int = 0

    def __len__(self) -> int:
        return len(self.slots)

    def forward(self, ids: Any, slots: Any, depth: Any, visible: Any, rows: Any) -> Any:
        """Compute tokens `ids` [q]; `visible` [q, k + q] is the attention mask. Returns logits [r, vocabulary] of `rows`.

        On an error the cache is restored.
        """
        import torch
        from transformers import DynamicCache

        held = len(self)
        # Without a config no layer of the cache drops keys: sliding layers must keep those that another branch needs.
        self.cache = DynamicCache() if self.cache is None else self.cache
        keys_depth = torch.cat([self.depth, depth])
        try:
            with torch.inference_mode():
                logits = self.model(
                    input_ids=ids[None],
                    position_ids=depth[None] + self.virtual,
                    attention_mask=self.masks(visible, depth, keys_depth),
                    past_key_values=self.cache,
                    use_cache=True,
                    logits_to_keep=rows,
                ).logits[0]
        except BaseException:
            self.select_positions(slice(0, held))
            raise
        self.slots, self.depth = torch.cat([self.slots, slots]), keys_depth
        return logits

    def masks(self, visible: Any, depth: Any, keys_depth: Any) -> Any:
        """The additive mask [1, 1, q, k], or one per kind of layer where they differ."""
        import torch

        def additive(allowed: Any) -> Any:
            blank = torch.zeros(allowed.shape, dtype=self.model.dtype, device=allowed.device)
            return blank.masked_fill_(~allowed, torch.finfo(self.model.dtype).min)[None, None]

        if "sliding_attention" not in self.attention.kinds or self.attention.window is None:
            return additive(visible)
        sliding = additive(visible & window_mask(depth, keys_depth, self.attention.window))
        if self.attention.kinds == {"sliding_attention"}:
            return sliding
        return {"full_attention": additive(visible), "sliding_attention": sliding}

    def keep(self, chosen: Any) -> None:
        """Drop every cached position but `chosen` (a boolean per position)."""
        if bool(chosen.all()):
            return
        where = chosen.nonzero()[:, 0]
        self.select_positions(where)
        self.slots, self.depth = self.slots[where], self.depth[where]

    def select_positions(self, where: Any) -> None:
        """Cut the keys and values of every layer to the given positions."""
        for layer in self.cache.layers:
            if layer.is_initialized and layer.keys.numel():
                layer.keys, layer.values = layer.keys[..., where, :], layer.values[..., where, :]

    def bytes_per_token(self) -> int:
        """Measured size of one cached position over all layers."""
        layers = self.cache.layers if self.cache is not None else []
        held = sum(part.numel() * part.element_size() for layer in layers for part in (layer.keys, layer.values))
        return int(held // max(1, len(self)))


def empty_cache(model: Any, attention: Attention, soft: bool = False) -> BranchCache:
    """An empty cache on the model's device, or with the keys and values of the soft prompt if `soft`."""
    import torch
    from transformers import DynamicCache

    empty = torch.empty(0, dtype=torch.long, device=model.device)
    if not soft:
        return BranchCache(model, attention, empty, empty)
    size = int(model.active_peft_config.num_virtual_tokens)
    before = torch.arange(-size, 0, device=model.device)
    branches = BranchCache(model.get_base_model(), attention, empty, empty, virtual=size)
    with torch.inference_mode():
        prompt = model.get_prompt(batch_size=1)
        if isinstance(prompt, torch.Tensor):
            options = {"inputs_embeds": prompt.to(branches.model.dtype), "position_ids": (before + size)[None], "use_cache": True}
            mask = branches.masks(before[:, None] >= before, before, before)
            branches.cache = DynamicCache()
            branches.model(**options, attention_mask=mask, past_key_values=branches.cache, logits_to_keep=1)
        else:
            branches.cache = prompt
    branches.slots, branches.depth = torch.full_like(before, -1), before
    return branches


def plain_forward(model: Any, sequences: Sequence[Any], rows: Any, soft: bool = False) -> Any:
    """Logits [b, r, vocabulary] at `rows` of right-padded `sequences` (arrays of ids), without any cache."""
    import torch

    width = max(map(len, sequences))
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence)
        mask[row, : len(sequence)] = 1
    options: dict[str, Any] = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device), "use_cache": False}
    wanted = torch.as_tensor(rows, device=model.device)
    # A soft prompt shifts the rows by its own length, so all are taken and the last `width` are the sequence's.
    few = not soft and "logits_to_keep" in inspect.signature(model.forward).parameters
    with torch.inference_mode():
        if few:
            return model(**options, logits_to_keep=wanted).logits
        return model(**options).logits[:, -width:][:, wanted]


def logprobs_at(logits: Any, which: Any, targets: Any) -> tuple[Any, Any]:
    """fp32 log-probability of `targets` [s] under rows `which` [s] of logits [r, vocabulary]; and whether each is the argmax."""
    import torch

    with torch.inference_mode():
        wide = logits.float()
        which = torch.as_tensor(which, device=logits.device)
        targets = torch.as_tensor(targets, device=logits.device)
        best = wide.argmax(-1)[which] == targets
        values = wide[which, targets] - wide.logsumexp(-1)[which]
        return values.double().cpu().numpy(), best.cpu().numpy()
