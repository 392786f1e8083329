"""What a task author writes: Doc, Task, Metric and sources of rows; the catalogue of tasks and plugins."""
