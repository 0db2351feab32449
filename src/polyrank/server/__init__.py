"""The HTTP server: the protocols that existing clients speak, on one port.

A request passes `exchange` (limits, keys, clock), a dialect (its shapes), `service` (texts to
sequences) and the engine's scheduler, which batches it with all others.
"""
