"""Kernels of another processor."""
