"""Writing to disk: files that appear whole, ledgers, the cache, locks, and tensors that are larger than memory."""
