"""Which checkpoint, exactly: its files, adapters and digests, and the built-in model."""
