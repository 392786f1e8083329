"""Score replies, and score stored outputs again."""
