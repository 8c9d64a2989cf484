"""Gelu of rows plus a bias."""
