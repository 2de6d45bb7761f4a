"""The same numbers faster: batches prefilled once, shared prefixes, a cache of encoded clips."""
