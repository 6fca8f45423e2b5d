"""The right one of several options, for questions about passages."""
