"""Documents on their way in: as given, cut and embedded, and as records that memories exchange."""
