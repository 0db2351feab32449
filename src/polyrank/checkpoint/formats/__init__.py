"""Our own codecs of tensors: 4-bit blocks, tiered tables, panels."""
