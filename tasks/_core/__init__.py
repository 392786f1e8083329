"""The benchmarks that papers report first, in lm-eval's protocol; `tasks/core.py` lists them."""
