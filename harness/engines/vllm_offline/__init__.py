"""The vLLM engine, in process and offline."""
