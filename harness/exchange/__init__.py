"""Imports results of other tools and exports runs: lm-eval, Every Eval Ever, Hugging Face."""
