"""A load test of `polyrank serve` beside infinity and a plain FastAPI server, on one model."""
