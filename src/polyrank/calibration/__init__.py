"""From raw logits to probabilities: how often something with such a logit is relevant. Pure.

A checkpoint that was calibrated carries `polyrank_calibration.json`; `polyrank calibrate` fits and
writes it (`polyrank.training.calibration`). Here it is read and applied. Knows nothing of models.
"""
