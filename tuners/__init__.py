"""Fine-tuning methods, one training loop, and studies of gain against forgetting."""
