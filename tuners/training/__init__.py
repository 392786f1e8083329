"""The training loop: examples, batches, losses, checkpoints and mitigations."""
