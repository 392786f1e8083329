"""The training loop and what it needs: examples, batches, losses, checkpoints, mitigations."""
