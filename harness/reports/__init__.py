"""Formats results, comparisons and gates: terminal, Markdown, JSON, JUnit XML, GitHub annotations."""
