"""The memory on disk: one SQLite file, what is read from it into memory, and the embedding cache."""
