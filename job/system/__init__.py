"""Clock, threads, signals and limits of the machine."""
