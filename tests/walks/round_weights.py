"""Round every matrix of a checkpoint to 4 bits, in groups of 32 along a row: python round_weights.py FROM TO"""

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

BITS, GROUP = 4, 32


def rounded(weight: np.ndarray) -> np.ndarray:
    """Nearest of 15 even steps between -max and max of each group."""
    if weight.ndim != 2 or weight.shape[1] % GROUP:
        return weight
    groups = weight.reshape(-1, GROUP)
    step = np.abs(groups).max(axis=1, keepdims=True) / (2 ** (BITS - 1) - 1)
    return (np.round(groups / np.maximum(step, 1e-12)) * step).reshape(weight.shape).astype(weight.dtype)


source, target = map(Path, sys.argv[1:])
shutil.copytree(source, target)
for path in target.glob("*.safetensors"):
    weights = {name: rounded(weight) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
