"""What the pages show, read from the store: queries, ranks, paired comparisons, studies."""
