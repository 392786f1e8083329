"""One small file per fine-tuning method, one training loop, one study of gain against forgetting."""
