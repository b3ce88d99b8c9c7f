"""A language model that answers from a memory."""
