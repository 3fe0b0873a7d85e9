"""Commands on what runs have stored: other formats of it."""
