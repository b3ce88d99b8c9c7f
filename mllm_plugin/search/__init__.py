"""Search: the beam walk, the flat scan, the exact oracle, and the leaf ranking that all three end in."""
