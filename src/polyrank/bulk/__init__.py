"""Jobs over files: tables in, tables with vectors, scores or labels out.

A job is a list of partitions, each a slice of one input file. A partition is read, computed by the
library's own classes and written whole, or not at all; what is written is never computed again.
One machine does them in a row (`run`), a cluster many at a time (`cluster`); both do a partition
by the same code (`partition`).
"""
