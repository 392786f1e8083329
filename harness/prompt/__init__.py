"""Doc to text to token ids: rendering, few-shot examples, chat templates, tokenizer, perturbations."""
