"""Fitting of calibrations: labelled pairs to `polyrank_calibration.json`, with a report."""
