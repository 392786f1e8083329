"""Ready-made metrics, one module per kind of output."""
