"""From a checkpoint to the same one with a smaller vocabulary."""
