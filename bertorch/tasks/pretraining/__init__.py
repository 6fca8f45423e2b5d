"""Pretraining on plain text: masked tokens and the order of sentences."""
