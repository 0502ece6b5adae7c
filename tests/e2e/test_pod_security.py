"""Every pod of this project, also of the services that only a demonstration needs, under the restricted standard."""

import pytest

from support.cluster import Cluster, E2EPipeline

pytestmark = pytest.mark.e2e

ENFORCE = "pod-security.kubernetes.io/enforce=restricted"


def test_every_pod_satisfies_the_restricted_standard(cluster: Cluster, shared: E2EPipeline) -> None:
    """The API server looks at what runs when a namespace is labelled, and warns of what it would not let in."""
    for namespace in ("sensorlog", "backing", shared.namespace):
        assert cluster.kubectl("-n", namespace, "get", "pods", "-o", "name").strip()
        label = ("label", "--dry-run=server", "--overwrite", "--warnings-as-errors", "namespace", namespace, ENFORCE)
        cluster.kubectl(*label)
