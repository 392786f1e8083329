"""Trials and studies: what is compared, on equal budgets, and the rows that come out."""
