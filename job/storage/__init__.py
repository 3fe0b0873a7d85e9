"""Storage: one protocol over local folders and object stores."""
