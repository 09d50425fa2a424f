"""Forecasts or target weights, and bars, to money."""
