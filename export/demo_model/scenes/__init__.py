"""Synthetic garage scenes: drawing, and the data set made of them."""
