"""A layer that multiplies 8-bit integers."""
