# Write, check and run a custom task: first a CSV file, then a Python file.
cat > colours.csv <<'CSV'
prompt,choices,answer
The colour of fresh grass is,green|purple|silver,green
The colour of a ripe banana is,yellow|blue|black,yellow
The colour of coal is,black|pink|white,black
The colour of fresh snow is,white|red|brown,white
The colour of a clear sky at noon is,blue|brown|green,blue
The colour of blood is,red|green|grey,red
CSV
assay check colours.csv
assay show colours.csv -n 1
assay run --model builtin:smollm2-135m --tasks colours.csv
assay new-task capitals
assay check capitals.py
assay run --model builtin:smollm2-135m --tasks capitals.py
pytest -q -p no:cacheprovider test_capitals.py
