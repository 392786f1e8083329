"""Charts for the browser (Altair) and for documents (SVG and text), and the colour theme."""
