"""Masked tokens and the order of sentences, on plain text."""
