"""Entities in texts of any length."""
