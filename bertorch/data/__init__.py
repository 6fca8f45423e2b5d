"""From files to batches: rows with their line numbers, token ids in a memory-mapped cache, packed batches."""
