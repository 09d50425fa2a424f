"""A trained model over any history, and how good its forecasts were."""
