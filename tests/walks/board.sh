# Open the leaderboard in a browser and navigate from a rank to an item.
assay board --port 8765 > board.log 2>&1 &
trap 'kill %1' EXIT
python "$WALKS/follow_rank.py" http://127.0.0.1:8765
