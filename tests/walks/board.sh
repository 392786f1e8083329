# Open the leaderboard in a browser and navigate from a rank to an item, on the runs of the other walks and on the generated store.
assay board --port 8765 > board.log 2>&1 &
runs=$!
assay board --demo --port 8766 > demo.log 2>&1 &
demo=$!
trap 'kill "$runs" "$demo"' EXIT
python "$WALKS/follow_rank.py" http://127.0.0.1:8765
python "$WALKS/follow_rank.py" http://127.0.0.1:8766
