"""Permanent errors: the Job fails within three minutes, and `status` gives the reason."""

from __future__ import annotations

import pytest

from tests.chart.rendering import Values, merged
from tests.cluster.access import Cluster, has_condition
from tests.cluster.release import NAME, Release, base_values, only

SOON_S = 180
WRONG_KEYS = "wrong-keys"
CASES: dict[str, tuple[Values, str]] = {
    "credentials": ({"s3": {"existingSecret": WRONG_KEYS}}, "credentials"),
    "model": ({"pools": {"cpu": {"model": {"uri": "s3://{bucket}/no-model"}}}}, "no model at s3://"),
    "digest": ({"pools": {"cpu": {"model": {"digest": "0" * 64}}}}, "has the digest"),
}


@pytest.mark.parametrize(("values", "words"), CASES.values(), ids=CASES)
def test_a_misconfigured_job_fails_with_a_reason(
    cluster: Cluster, release: Release, values: Values, words: str
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": cluster.server.access_key, "AWS_SECRET_ACCESS_KEY": "no" * 20}
    secret = {"metadata": {"name": WRONG_KEYS}, "stringData": keys}
    cluster.core.create_namespaced_secret(release.namespace, secret)
    release.install(merged(base_values(cluster, release.location), only("cpu"), in_bucket(values, cluster.bucket)))
    release.wait_for(lambda: has_condition(release.job("cpu"), "Failed"), SOON_S, "Job failed")

    told = release.status()
    assert told["state"] == "failed"
    assert told["failures"][0]["exit_code"] == 78
    assert words in told["failures"][0]["last_words"]
    waited = release.annotator("status", NAME, "-n", release.namespace, "--wait", check=False)
    assert waited.returncode == 78
    assert words in waited.stdout


def in_bucket(values: Values, bucket: str) -> Values:
    return {
        key: in_bucket(value, bucket) if isinstance(value, dict) else str(value).replace("{bucket}", bucket)
        for key, value in values.items()
    }
