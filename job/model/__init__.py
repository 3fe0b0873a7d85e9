"""Artifacts and the sessions that run them."""
