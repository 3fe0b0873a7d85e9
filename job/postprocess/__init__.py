"""Rules on instances and masks: pure functions on arrays."""
