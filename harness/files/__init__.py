"""Careful reading of files that strangers made, atomic writing, locks, and the sandbox for untrusted programs."""
