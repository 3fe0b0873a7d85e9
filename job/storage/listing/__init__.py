"""Listings of pages: in order, many at once."""
