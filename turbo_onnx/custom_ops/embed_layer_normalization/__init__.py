"""Embedding look-ups, summed and normalized."""
