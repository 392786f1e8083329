"""What a comparison reads item by item: margins of ranked choices, and items gained and lost."""
