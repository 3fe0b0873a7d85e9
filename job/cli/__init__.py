"""The commands of the worker; each module is loaded when its command is called."""
