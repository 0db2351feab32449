"""Bulk jobs of real sections beside the bare engine: `make bench-scale`."""
