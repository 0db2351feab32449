"""Backends that turn packed token ids into rows, behind one seam."""
