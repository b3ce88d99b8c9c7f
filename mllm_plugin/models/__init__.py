"""Pretrained models: where they lie, and how their files are loaded."""
