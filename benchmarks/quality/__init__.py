"""Quality of a model on the evaluation sets."""
