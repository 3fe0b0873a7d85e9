"""Planning: which inputs a run processes, in which shards."""
