"""The generated store of `assay board --demo`: invented tasks, models, studies and gates, from fixed seeds, without running a model."""
