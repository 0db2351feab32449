"""Checkpoints with fewer layers."""
