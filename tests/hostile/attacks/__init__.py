"""Malformed checkpoint folders: how each is made of a good one, and the error that it gives.

`folders.ATTACKS` is the table. A fuzzer may start from its entries: each changes a copy of a tiny
checkpoint of `tests.checkpoints` in place.
"""
