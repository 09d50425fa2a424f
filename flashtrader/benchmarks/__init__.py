"""The measurements behind `flashtrader bench`."""
