"""Reports and published snapshots: one file of HTML or Markdown, and tables for export."""
