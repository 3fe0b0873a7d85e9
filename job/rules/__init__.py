"""Classes of a run and the rules on their instances."""
