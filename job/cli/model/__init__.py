"""Commands on a model alone: no run, no output."""
