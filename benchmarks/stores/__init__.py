"""How stores of vectors and forms of storage find, and what they cost."""
