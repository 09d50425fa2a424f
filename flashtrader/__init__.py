"""Fetch market bars, train long-context transformers on them, forecast, and backtest the forecasts."""

__version__ = "0.1.0"
