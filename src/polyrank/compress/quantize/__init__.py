"""From a float checkpoint to an int8 folder that passed its gate."""
