"""Fixtures of this folder."""

from tests.s3.fixtures import bucket, fast_bucket, minio, moto, new_bucket

__all__ = ["bucket", "fast_bucket", "minio", "moto", "new_bucket"]
