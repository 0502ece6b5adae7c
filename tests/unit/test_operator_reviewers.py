"""Who may review tokens: the subjects of one binding."""

import copy
from typing import Any, cast

import pytest

from sensorlog_operator.errors import NeedsChangeError
from sensorlog_operator.kube import Kube
from sensorlog_operator.reviewers import Reviewers

STRANGER = {"kind": "Group", "name": "auditors", "apiGroup": "rbac.authorization.k8s.io"}


class Binding:
    """One ClusterRoleBinding with the two calls that are allowed on it; tests/e2e has the real one."""

    def __init__(self, subjects: list[dict[str, str]] | None) -> None:
        self.body: dict[str, Any] | None = {"metadata": {"name": "b", "resourceVersion": "7"}}
        if subjects is not None:
            self.body["subjects"] = subjects
        self.patches: list[dict[str, Any]] = []

    def get(self, _kind: Any, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Return the binding."""
        assert (namespace, name) == (None, "b")
        return copy.deepcopy(self.body)

    def merge(self, _kind: Any, metadata: dict[str, Any], patch: dict[str, Any]) -> None:
        """Take a patch."""
        assert metadata == {"name": "b"}
        assert self.body is not None
        assert patch["metadata"] == {"resourceVersion": "7"}
        self.patches.append(patch)
        self.body["subjects"] = patch["subjects"]


def reviewers(binding: Binding) -> Reviewers:
    """Return the reviewers of a binding."""
    return Reviewers(cast("Kube", binding), "b")


def test_a_pipeline_is_added_once_and_taken_away_alone() -> None:
    """Other subjects stay; what is as wanted is not written again."""
    binding = Binding([STRANGER])
    kept = reviewers(binding)
    kept.keep("plants", "one", wanted=True)
    kept.keep("plants", "one", wanted=True)
    kept.keep("plants", "two", wanted=True)
    assert kept.pipelines() == ["plants/one", "plants/two"]
    kept.keep("plants", "one", wanted=False)
    assert binding.body is not None
    assert binding.body["subjects"] == [
        STRANGER,
        {"kind": "ServiceAccount", "name": "two-query", "namespace": "plants"},
    ]
    assert len(binding.patches) == 3


def test_nothing_is_written_for_pipelines_without_authentication() -> None:
    """A binding without subjects stays as the chart made it."""
    binding = Binding(None)
    reviewers(binding).keep("plants", "one", wanted=False)
    assert binding.patches == []


def test_a_missing_binding_matters_only_to_those_who_need_it() -> None:
    """Then it is said what makes it."""
    binding = Binding([])
    binding.body = None
    reviewers(binding).keep("plants", "one", wanted=False)
    with pytest.raises(NeedsChangeError, match="Upgrade the chart"):
        reviewers(binding).keep("plants", "one", wanted=True)
    assert reviewers(binding).pipelines() == []


def test_an_operator_of_chosen_namespaces_says_what_an_administrator_must_do() -> None:
    """It has no right beyond its namespaces, and does not even ask for the binding."""
    binding = Binding([])
    ours = Reviewers(cast("Kube", binding), "")
    ours.keep("plants", "one", wanted=False)
    with pytest.raises(NeedsChangeError, match="bind ClusterRole system:auth-delegator to ServiceAccount plants/one-"):
        ours.keep("plants", "one", wanted=True)
    assert ours.pipelines() == []


def test_what_an_administrator_has_bound_is_believed() -> None:
    """There is no way for us to look."""
    Reviewers(cast("Kube", Binding([])), "", bound_by_others=True).keep("plants", "one", wanted=True)
