"""Stores of vectors: one small interface, one file a store, imported when a URL names it."""

from polyrank.stores.base import Entry, Found, Store
from polyrank.stores.opening import open_store

__all__ = ["Entry", "Found", "Store", "open_store"]
