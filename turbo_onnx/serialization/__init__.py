"""Model files: reading them without holding their weights, and writing them back whole, byte for byte the same."""
