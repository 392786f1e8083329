"""Tokenizers with chat templates, made at test time: byte-level, with the special tokens that templates name."""

from __future__ import annotations

import json
from pathlib import Path

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|stop|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
BEGUN = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}") + "{# </think> #}"
SILENT = "{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{% endfor %}"
PARTS = "{% for m in messages %}<|im_start|>{{ m.role }}{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>{% endfor %}"
LISTED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + (':' if m['content'][0]['type'] == 'image' else ': ') }}"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SPECIAL = ("<eos>", "<s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>")


def make_chat_tokenizer(folder: Path, template: str, bos: bool = False, eos: bool = True, plain: tuple[str, ...] = ()) -> Path:
    """Write a byte-level tokenizer; `plain` tokens are added and not special. With `bos`, "<s>" is put before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate((*SPECIAL, *letters))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ({"bos_token": "<s>"} if bos else {}) | ({"eos_token": "<eos>"} if eos else {})
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder
