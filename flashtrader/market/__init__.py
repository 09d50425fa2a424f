"""Bars and the places they come from: from an exchange to disk."""
