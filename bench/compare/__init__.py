"""The comparison: Piropiro beside simpler ways to stream an answer, on the same load, one after the other."""
