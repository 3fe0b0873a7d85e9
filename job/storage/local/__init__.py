"""Local and mounted file systems as a store."""
