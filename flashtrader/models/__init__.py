"""One transformer on a time × entity grid, and the families that use it."""
