"""Sorting, packing and running of sequences; knows nothing of text."""
