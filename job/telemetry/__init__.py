"""Logs, metrics and the progress bar."""
