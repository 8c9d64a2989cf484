"""A residual connection and its normalization."""
