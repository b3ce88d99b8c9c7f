"""Trains a language model to read its memory: reading vectors that it writes itself, from text without labels."""
