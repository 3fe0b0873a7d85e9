"""Commands, loaded by the command line when they are called."""
