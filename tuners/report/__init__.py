"""The report of a study: estimates with confidence intervals, figures and text, from the study's rows."""
