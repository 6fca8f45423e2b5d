"""What the tasks are scored by."""
