"""What can be known about every tensor before the model runs: type, symbolic shape, and for integers the value."""
