"""Measures a model and the host path on this machine."""
