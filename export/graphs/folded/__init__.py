"""Graphs of half precision whose biases, scales and constant parts take no operator of their own."""
