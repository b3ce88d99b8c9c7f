"""Training of memory adapters for language models."""
