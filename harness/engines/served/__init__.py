"""Scores a model behind any OpenAI-compatible server (vllm serve, SGLang, llama.cpp, a hosted API) with the official openai client."""
