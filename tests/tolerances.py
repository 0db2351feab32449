"""How far results may lie apart, each with its reason."""

LOGIT = 1e-4
"""Logits against transformers: float32 sums in another order through all layers (issue's bound)."""

EMBEDDING = 1e-5
"""Values of unit-length vectors against sentence-transformers (issue's bound)."""

COSINE = 0.99999
"""Cosine of a vector with the reference's (issue's bound)."""

PROBABILITY = 1e-5
"""Class probabilities: logits of tiny models agree within 1e-5, and softmax does not widen that."""

BATCH_MATES = 2e-6
"""Scores and unit-length vectors when order, batch or budget change. Padding encoders choose other
kernels for other shapes, which round differently; measured below 1e-6 on all test checkpoints."""
