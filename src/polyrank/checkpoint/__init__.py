"""A folder as the Hub publishes it, turned into a `ModelSpec` and memory-mapped weights.

Nobody outside this package reads a checkpoint's configuration files.
"""
