"""Plans a gate before anything runs: items needed, the suite that gives them, and the error rates of other rules."""
