"""Whole memories at once: built from a stream, embedded anew, saved from a damaged file."""
