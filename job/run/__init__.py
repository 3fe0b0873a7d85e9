"""The files of a run: specification, journal, heartbeats."""
