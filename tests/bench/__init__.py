"""Side by side with lm-eval on one machine: the same model, items and dtype. `python -m tests.bench`; see results/speed/README.md."""
