"""Measurements: a table, a JSON with the machine beside it, and pictures."""
