"""How dap writes to disk: files that appear whole, the ledger, the cache, and tensors that are too large for memory."""
