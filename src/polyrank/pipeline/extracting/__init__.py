"""Texts of files: one module a format, each by one library."""
