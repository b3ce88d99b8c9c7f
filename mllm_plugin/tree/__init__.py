"""Pure structure: how embeddings are grouped under nodes. No torch, no storage."""
