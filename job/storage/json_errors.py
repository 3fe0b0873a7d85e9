"""What msgspec raises for bytes that are not JSON of the expected type."""

from __future__ import annotations

import msgspec

JSON_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Of a text that is not UTF-8 inside a string, and of one that is nested too deeply, msgspec raises Python's errors."""
