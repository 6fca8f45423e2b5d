"""Shared by all training scripts: flags, processes, optimizer, schedules, bookkeeping, checkpoints, logging."""
