"""Safe reading of untrusted files, atomic writing, locks, and the sandbox for generated programs."""
