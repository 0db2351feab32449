"""Training data: files read as sources, lists of passages drawn from them, negatives mined."""
