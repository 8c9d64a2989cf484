"""What products of 8-bit integers stand for, plus a bias, and an activation of it."""
