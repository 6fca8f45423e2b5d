"""What every training shares: flags, processes, optimizer, schedules, the loop's bookkeeping, checkpoints, logging."""
