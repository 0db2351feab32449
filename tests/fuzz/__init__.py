"""Fuzzing: mutated model folders under sanitizers, and readers by coverage. Never a crash."""
