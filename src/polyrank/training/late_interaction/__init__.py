"""Training of heads that compare token rows, on a body that stays as it is."""
