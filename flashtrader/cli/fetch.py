"""`flashtrader fetch`."""
