"""Fixtures of this folder."""

from tests.hostile.canaries import call
from tests.s3.fixtures import moto

__all__ = ["call", "moto"]
