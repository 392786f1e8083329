"""From Doc to text to token ids: rendering, few-shot examples, chat templates, tokenizers, perturbations."""
