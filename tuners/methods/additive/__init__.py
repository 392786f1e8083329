"""Methods that add trained modules or embeddings to the model."""
