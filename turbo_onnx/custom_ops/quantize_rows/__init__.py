"""Rows in 8 bits, with a scale and a zero point for each."""
