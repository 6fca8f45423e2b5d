"""One label for a text or a text pair."""
