"""Recipes that make the models of the demo, the tests and the benchmarks."""
