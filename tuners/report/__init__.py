"""What the rows of a study say: claims with intervals, figures, the report."""
