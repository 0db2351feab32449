"""Benchmarks of what `polyrank compress` makes."""
