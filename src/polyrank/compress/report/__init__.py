"""Variants of a checkpoint side by side: bytes, memory, time and quality."""
