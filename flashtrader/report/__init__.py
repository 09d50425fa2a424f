"""A backtest as pictures and as one self-contained page."""
