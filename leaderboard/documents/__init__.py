"""Self-contained documents: the report on runs, and the published leaderboard."""
