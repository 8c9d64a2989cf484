"""Rotation of heads by their positions."""
