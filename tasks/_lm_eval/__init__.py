"""Reads tasks of lm-evaluation-harness through its own task objects; `tasks/lm_eval.py` gives them to assay."""
