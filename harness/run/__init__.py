"""Plan to stored run: prepare, send requests, score, resume, sweep, watch, merge."""
