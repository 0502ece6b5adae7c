"""Which query pods may ask the API server about callers' tokens: the subjects of one ClusterRoleBinding of the chart.

TokenReview and SubjectAccessReview belong to no namespace, so it takes a ClusterRoleBinding. One per pipeline would
need the right to create and delete any, and would stay behind, because what belongs to no namespace cannot be owned by
a pipeline. So the chart makes one without subjects, and the operator may change just that one.
"""

import threading
import time
from typing import Any

from sensorlog_operator.errors import NeedsChangeError, Reason
from sensorlog_operator.kube import CLUSTER_ROLE_BINDING, Kube

SUFFIX = "-query"
"""The ServiceAccount of the pipeline NAME's query pods is NAME-query."""

SEEN_SECONDS = 5.0
"""How long the subjects that were read are good enough to see that nothing is to be changed: for many pipelines."""

Object = dict[str, Any]


class Reviewers:
    """The binding's subjects; safe to use from several threads. Others' subjects are left alone."""

    def __init__(self, kube: Kube, binding: str, *, bound_by_others: bool = False) -> None:
        self._kube = kube
        self._binding = binding
        self._bound_by_others = bound_by_others
        self._lock = threading.Lock()
        self._seen: list[Object] = []
        self._seen_at = -SEEN_SECONDS

    def keep(self, namespace: str, name: str, *, wanted: bool) -> None:
        """Make the query pods of a pipeline reviewers or not. PipelineErrors, as Kube's."""
        if not self._binding:
            self._not_ours(namespace, name, wanted=wanted)
            return
        subject = {"kind": "ServiceAccount", "name": f"{name}{SUFFIX}", "namespace": namespace}
        with self._lock:
            if time.monotonic() - self._seen_at < SEEN_SECONDS and wanted == _among(self._seen, subject):
                return
            binding = self._kube.get(CLUSTER_ROLE_BINDING, None, self._binding)
            if binding is None:
                self._missing(wanted=wanted)
                return
            self._seen = before = binding.get("subjects") or []
            self._seen_at = time.monotonic()
            others = [found for found in before if not _same(found, subject)]
            if wanted == _among(before, subject):
                return
            self._seen_at = -SEEN_SECONDS
            # With the version that was read: whoever changed it meanwhile is not overwritten, and we come again.
            version = {"resourceVersion": binding["metadata"]["resourceVersion"]}
            patch = {"metadata": version, "subjects": [*others, subject] if wanted else others}
            self._kube.merge(CLUSTER_ROLE_BINDING, {"name": self._binding}, patch)

    def pipelines(self) -> list[str]:
        """Return the pipelines, as namespace/name, whose query pods are reviewers; some may be gone."""
        if not self._binding:
            return []
        binding = self._kube.get(CLUSTER_ROLE_BINDING, None, self._binding) or {}
        return [
            f"{subject['namespace']}/{subject['name'].removesuffix(SUFFIX)}"
            for subject in binding.get("subjects") or []
            if subject["kind"] == "ServiceAccount" and subject["name"].endswith(SUFFIX)
        ]

    def _not_ours(self, namespace: str, name: str, *, wanted: bool) -> None:
        if wanted and not self._bound_by_others:
            raise NeedsChangeError(
                Reason.REVIEWERS_NOT_MANAGED,
                "The operator watches chosen namespaces and cannot let query pods check tokens. Have an administrator"
                f" bind ClusterRole system:auth-delegator to ServiceAccount {namespace}/{name}{SUFFIX} and set the"
                " chart's tokenReviewersBound, or take spec.query.authentication away.",
            )

    def _missing(self, *, wanted: bool) -> None:
        if wanted:
            raise NeedsChangeError(
                Reason.WORKLOAD_REJECTED,
                f"ClusterRoleBinding {self._binding} does not exist, without which query pods cannot check tokens."
                " Upgrade the chart, which makes it, or take spec.query.authentication away.",
            )


def _among(subjects: list[Object], subject: Object) -> bool:
    return any(_same(found, subject) for found in subjects)


def _same(found: Object, subject: Object) -> bool:
    return all(found.get(key) == value for key, value in subject.items())
