"""Benches of clients of S3."""
