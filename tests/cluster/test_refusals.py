"""Permanent errors: the Job fails within three minutes, and `status` gives the reason."""

from __future__ import annotations

import pytest

from tests.chart.rendering import Values, merged
from tests.cluster.access import Cluster, has_condition
from tests.cluster.locations import check_complete
from tests.cluster.release import NAME, Release, base_values, only

SOON_S = 180
KEYS = "own-keys"
CASES: dict[str, tuple[Values, str]] = {
    "model": ({"pools": {"cpu": {"model": {"uri": "s3://{bucket}/no-model"}}}}, "no model at s3://"),
    "digest": ({"pools": {"cpu": {"model": {"digest": "0" * 64}}}}, "has the digest"),
}


@pytest.mark.parametrize(("values", "words"), CASES.values(), ids=CASES)
def test_a_misconfigured_job_fails_with_a_reason(
    cluster: Cluster, release: Release, values: Values, words: str
) -> None:
    release.install(merged(base_values(cluster, release.location), only("cpu"), in_bucket(values, cluster.bucket)))
    release.wait_for(lambda: has_condition(release.job("cpu"), "Failed"), SOON_S, "Job failed")

    told = release.status()
    assert told["state"] == "failed"
    assert told["failures"][0]["exit_code"] == 78
    assert words in told["failures"][0]["last_words"]
    waited = release.annotator("status", NAME, "-n", release.namespace, "--wait", check=False)
    assert waited.returncode == 78
    assert words in waited.stdout


def test_wrong_credentials_are_told_and_mended_without_another_command(
    cluster: Cluster, release: Release, quiet: dict[str, bytes]
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": cluster.server.access_key, "AWS_SECRET_ACCESS_KEY": "no" * 20}
    secret = {"metadata": {"name": KEYS}, "stringData": keys}
    cluster.core.create_namespaced_secret(release.namespace, secret)
    own = {"s3": {"existingSecret": KEYS}}
    release.install(merged(base_values(cluster, release.location), only("cpu"), own))
    release.wait_for(lambda: refusals(release), SOON_S, "status tells the refusal")

    assert not has_condition(release.job("cpu"), "Failed")
    secret["stringData"] = {**keys, "AWS_SECRET_ACCESS_KEY": cluster.server.secret_key}
    cluster.core.replace_namespaced_secret(KEYS, release.namespace, secret)
    release.wait_for_end()
    check_complete(release.location, release.run, quiet)
    assert release.status()["state"] == "complete"


def refusals(release: Release) -> list[str]:
    failures = release.status()["failures"]
    return [one["last_words"] for one in failures if one["exit_code"] == 75 and "credentials" in one["last_words"]]


def in_bucket(values: Values, bucket: str) -> Values:
    return {
        key: in_bucket(value, bucket) if isinstance(value, dict) else str(value).replace("{bucket}", bucket)
        for key, value in values.items()
    }
