"""How calls are made: unknown options are explained, every method has an async twin."""
