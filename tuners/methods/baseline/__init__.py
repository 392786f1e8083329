"""The two baselines: train every parameter, or none."""
