"""SAM 3 to an artifact that the worker runs, with proof that both agree."""
