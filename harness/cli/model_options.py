"""Options of `assay run` for served models and for how the engine is opened."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL, ENGINE = "Model", "Engine"

ServedName = Annotated[str, typer.Option(help="The server's name of the model, such as --served-name my-model.", rich_help_panel=MODEL)]
TokenizerFolder = Annotated[
    str,
    typer.Option(
        help="Tokenizer folder of a served model, such as --tokenizer ckpt/: token ids are sent. \\[default: text is sent]",
        rich_help_panel=MODEL,
    ),
]
DataParallel = Annotated[
    int, typer.Option(help="Processes with a copy of the model, one per GPU: --data-parallel 8 on 8 GPUs.", rich_help_panel=ENGINE)
]
EngineArg = Annotated[
    list[str] | None,
    typer.Option(
        help="Argument for precision, memory, lengths or kernels of vLLM's engine or transformers, such as kv_cache_dtype=fp8. Repeatable.",
        rich_help_panel=ENGINE,
    ),
]
