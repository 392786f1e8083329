"""Results of others in, ours out: lm-eval, Every Eval Ever, Hugging Face."""
