"""Comparison of an artifact with the original model and with its stored reference answers."""
