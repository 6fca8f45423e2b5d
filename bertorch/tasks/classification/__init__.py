"""One label for a text or a text pair, several labels, or a score."""
