"""The fast paths, beside the plain ones: prepared batches, shared prefixes, a memory of encoded
clips."""
