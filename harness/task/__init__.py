"""What a task author writes (Doc, Task, Metric, sources of rows) and the catalogue of tasks and plugins."""
