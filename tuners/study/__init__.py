"""Trials and studies: methods compared on equal budgets, and the rows with their results."""
