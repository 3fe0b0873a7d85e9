"""Commands of the cluster, each loaded when it is called."""
