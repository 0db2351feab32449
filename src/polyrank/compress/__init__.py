"""Making checkpoints smaller and faster, and measuring what that costs; never part of serving."""
