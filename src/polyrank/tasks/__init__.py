"""Rerank, embed and classify as pure functions of texts and rows."""
