"""Trains a language model to write and read its own memory, from text without labels."""
