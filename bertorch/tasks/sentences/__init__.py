"""Sentence vectors: similarities, classes of pairs, search."""
