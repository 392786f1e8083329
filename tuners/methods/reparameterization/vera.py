"""VeRA: one frozen random pair of projections for all layers, two trained vectors each (Kopiczko et al. 2023, arXiv 2310.11454)."""

from typing import Any

from assay.tuners.methods.peft_method import check_count, target_modules, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, rank: int = 256, targets: str | tuple[str, ...] = ("q_proj", "v_proj"), *, seed: int = 0) -> Trainable:
    """The projections are random and shared, so a rank above the dimension is valid. They are saved, although the seed determines them."""
    from peft import VeraConfig

    check_count("vera", rank=rank)
    return wrap(model, VeraConfig(task_type="CAUSAL_LM", r=rank, target_modules=target_modules(targets), projection_prng_key=seed))


METHOD = Method(
    "vera", family="reparameterization", prepare=prepare, lr=5e-3, route="merged", about="Kopiczko et al. 2023, arXiv 2310.11454"
)
