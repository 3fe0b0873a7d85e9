"""Runs of sam3-annotate on Kubernetes: what a person does with a release of the chart."""
