"""Execution of a run: processes, shards, completion."""
