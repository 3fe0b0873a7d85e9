"""The command line; the module of a command is loaded when the command is called."""
