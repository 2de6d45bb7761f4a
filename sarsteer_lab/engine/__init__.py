"""The same numbers faster: prepared batches, shared prefixes, a memory of encoded clips."""
