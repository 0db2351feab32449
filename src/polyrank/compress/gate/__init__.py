"""The quality gate: a compressed checkpoint beside its source, on data given."""
