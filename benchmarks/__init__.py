"""One script for each claim. Run them from the checkout: `python -m benchmarks.encoder_cpu`."""
