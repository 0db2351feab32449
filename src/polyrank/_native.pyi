"""The compiled module, built from `src/polyrank/native`. Absent from a build without a compiler."""

def cpu_features() -> dict[str, bool]:
    """Return which instructions the processor and the operating system let run."""

def compiled_paths() -> list[str]:
    """Return the kernel paths of this build, from plain to fast."""
