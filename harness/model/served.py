"""A model behind a server: what identifies it, since its weights cannot be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from assay.harness.errors import AssayError

UNVERIFIED = "served, weights not verified"
PREFIX = "served-"
"""How the digest of a served model begins: it is not a digest of weights."""
PASSING = ("created", "permission")
"""Fields of a model's entry in /v1/models that change with every start or request."""
Prompts = Literal["ids", "text", "chat"]


@dataclass(frozen=True, slots=True)
class Server:
    """A model behind an OpenAI-compatible server."""

    address: str
    """Base address, such as http://localhost:8000/v1; it never holds a key or password."""
    name: str
    """The server's name of the model."""
    prompts: Prompts
    """What is sent: token ids of a local tokenizer, text, or messages for the server's own chat template."""
    reported: Mapping[str, Any]
    """The model's entry in /v1/models; empty if the server has no such list."""

    @property
    def digest(self) -> str:
        """Hash of the address, the name, and what the server reports. Equal digests do not mean equal weights."""
        kept = {key: value for key, value in self.reported.items() if key not in PASSING}
        text = json.dumps([self.address, self.name, kept], sort_keys=True)
        return PREFIX + hashlib.sha256(text.encode()).hexdigest()

    @property
    def owner(self) -> str:
        """The kind of server, such as vllm, as it reports itself; may be empty."""
        return str(self.reported.get("owned_by") or "")

    @property
    def positions(self) -> int:
        """Longest sequence in tokens, where the server reports it (vLLM, SGLang, llama.cpp); else 0."""
        meta = self.reported.get("meta")
        found = self.reported.get("max_model_len") or (meta.get("n_ctx_train") if isinstance(meta, dict) else None)
        return found if isinstance(found, int) and found > 0 else 0


def is_served(digest: str) -> bool:
    """Whether a model's digest is that of a served model, whose weights are not verified."""
    return digest.startswith(PREFIX)


def is_address(model: str) -> bool:
    return model.lower().startswith(("http://", "https://"))


def clean_address(model: str) -> str:
    """The base address of a server. Raises AssayError if it holds a user, password or query, which may be secrets, or no host."""
    try:
        parts = urlsplit(model)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise AssayError(f"not an address: {error}", where="--model", do="write it as http://localhost:8000/v1") from None
    if parts.username or parts.password or parts.query or parts.fragment or "@" in parts.netloc:
        raise AssayError(
            "the address of a server must not hold a user, password or query: it is stored with the run",
            where="--model",
            do="export OPENAI_API_KEY=... and give the plain address, such as http://localhost:8000/v1",
        )
    if not host:
        raise AssayError("the address has no host", where="--model", do="write it as http://localhost:8000/v1")
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{parts.path.rstrip('/')}"
