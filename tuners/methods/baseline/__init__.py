"""The two ends of the scale: every parameter is trained, or none."""
