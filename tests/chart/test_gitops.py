"""Rendering without a cluster, as GitOps controllers do it."""

from __future__ import annotations

import pytest

from tests.chart.rendering import CHART, EVERYTHING, EXPORT, ON_S3, ON_VOLUMES, Values, render

RELEASES = {"s3": ON_S3, "volumes": ON_VOLUMES, "everything": EVERYTHING, "export": EXPORT}


def test_no_template_looks_anything_up_or_changes_by_itself() -> None:
    # lookup is empty without a cluster; the others give another value at each rendering.
    forbidden = (
        "lookup ",
        "randAlpha",
        "randNumeric",
        "now ",
        "now|",
        "uuidv4",
        "genCA",
        "genSignedCert",
        ".Capabilities",
    )

    for template in sorted(CHART.glob("templates/**/*.*")):
        text = template.read_text(encoding="utf-8")
        assert [word for word in forbidden if word in text.partition("NOTES")[0]] == [], template.name


@pytest.mark.parametrize("values", RELEASES.values(), ids=RELEASES)
def test_only_the_doctor_is_a_hook(values: Values) -> None:
    for manifest in render(values).manifests:
        annotations = manifest["metadata"].get("annotations", {})
        is_hook = any(name.startswith("helm.sh/hook") for name in annotations)
        assert is_hook == (manifest["kind"] == "Pod")
        if is_hook:
            assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded,hook-failed"


@pytest.mark.parametrize("values", RELEASES.values(), ids=RELEASES)
def test_every_object_names_its_release_for_pruning(values: Values) -> None:
    own = [one for one in render(values).manifests if one["metadata"]["name"] != "more"]

    assert {one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in own} == {"night"}
    assert {one["metadata"]["namespace"] for one in own} == {"garage"}


@pytest.mark.parametrize("values", RELEASES.values(), ids=RELEASES)
def test_equal_values_render_equal_manifests(values: Values) -> None:
    assert render(values).manifests == render(values).manifests
