"""Comparisons and gates for people and pipelines: terminal, Markdown, JSON, JUnit, GitHub."""
