"""OpenVINO on CPUs: the session, and the cache of its compiled graphs."""
