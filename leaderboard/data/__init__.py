"""Reads the store for the pages: queries, ranks, paired comparisons, studies."""
