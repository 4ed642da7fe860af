"""May this be done? Advice, not a safety function: a deterministic policy of words, and an optional judge."""
