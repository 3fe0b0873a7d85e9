"""Tools that read a run from outside: progress, audit, cleanup, doctor."""
