"""Measures of ranking quality on data sets in BEIR form."""
