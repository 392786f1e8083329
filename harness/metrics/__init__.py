"""Ready metrics, by what they read."""
