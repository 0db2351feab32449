"""The public classes: a loaded checkpoint with an engine and a task."""
