"""Attacks on a run: what could make its results too good to be true, tried out."""
