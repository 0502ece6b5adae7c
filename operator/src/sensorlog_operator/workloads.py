"""The Kubernetes side of a pipeline: its children, applied server-side where they differ.

A child is applied when its manifest changed (the hash of the last one is an annotation, which also tells of fields
taken away) or when the live object no longer contains it (somebody changed it by hand).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from sensorlog_operator.errors import Reason
from sensorlog_operator.kube import CHILD_KINDS, POD, Kube
from sensorlog_operator.manifests import SELECTOR, Object, digest, pod_selector
from sensorlog_operator.models import GROUP, Pipeline
from sensorlog_operator.plans import Action, Refusal

MANIFEST_HASH = f"{GROUP}/manifest-hash"

Key = tuple[str, str]
"""Kind and name of a child."""


@dataclass(frozen=True, slots=True)
class ApplyObject(Action):
    """Apply a manifest server-side."""

    manifest: Object


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a Deployment is. `problem` says what its pods complain about, None when nothing."""

    wanted: int
    ready: int
    updated: bool
    problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every wanted pod is ready and of the current template."""
        return self.updated and self.ready >= self.wanted

    def __str__(self) -> str:
        return f"{self.ready}/{self.wanted}"


def observe(kube: Kube, pipeline: Pipeline) -> dict[Key, Object]:
    """Return the pipeline's children that exist."""
    selector = f"{SELECTOR},app.kubernetes.io/instance={pipeline.name}"
    return {
        (kind, child["metadata"]["name"]): child
        for kind, where in CHILD_KINDS.items()
        for child in kube.list(where, pipeline.namespace, selector=selector)
    }


def plan(manifests: Iterable[Object], observed: Mapping[Key, Object], owner_uid: str) -> list[Action]:
    """Return the children to apply, each with why; a stranger's object of the same name is refused."""
    actions: list[Action] = []
    for manifest in manifests:
        wanted = _with_hash(manifest)
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        live = observed.get((manifest["kind"], manifest["metadata"]["name"]))
        if live is None:
            actions.append(ApplyObject(f"create {name}", wanted))
        elif not _owned(live, owner_uid):
            actions.append(Refusal(_stranger(name), Reason.WORKLOAD_REJECTED, blocking=True))
        elif live["metadata"].get("annotations", {}).get(MANIFEST_HASH) != digest(manifest):
            actions.append(ApplyObject(f"update {name}", wanted))
        elif drifted := difference(wanted, live):
            actions.append(ApplyObject(f"repair {name}: {drifted} was changed by hand", wanted))
    return actions


def _with_hash(manifest: Object) -> Object:
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), MANIFEST_HASH: digest(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _owned(live: Object, owner_uid: str) -> bool:
    return any(owner["uid"] == owner_uid for owner in live["metadata"].get("ownerReferences", ()))


def _stranger(name: str) -> str:
    return f"{name} exists and belongs to somebody else: delete it, or give the pipeline another name."


def difference(wanted: Any, live: Any, path: str = "") -> str | None:
    """Return the path of the first value in `wanted` that `live` does not have, None where it has all."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        parts = ((f"{path}.{key}".lstrip("."), value, live.get(key)) for key, value in wanted.items())
    elif isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        parts = ((f"{path}[{n}]", *pair) for n, pair in enumerate(zip(wanted, live, strict=True)))
    else:
        return None if _same(wanted, live) else path
    return next((found for name, a, b in parts if (found := difference(a, b, name))), None)


def _same(wanted: Any, live: Any) -> bool:
    if wanted == live or (not wanted and live is None):
        return True  # the API server drops empty maps and lists
    if isinstance(wanted, str) and isinstance(live, str):
        a, b = _quantity(wanted), _quantity(live)
        return a is not None and a == b  # 1000m is stored as 1
    return False


def _quantity(text: str) -> Decimal | None:
    try:
        return Decimal(parse_quantity(text))
    except (ValueError, InvalidOperation):
        return None


def apply(kube: Kube, actions: Sequence[Action]) -> None:
    """Apply the manifests among `actions`, in order."""
    for action in actions:
        if isinstance(action, ApplyObject):
            kube.apply(CHILD_KINDS[action.manifest["kind"]], action.manifest)


def rollout(kube: Kube, pipeline: Pipeline, component: str, deployment: Object | None) -> Rollout:
    """Return how far a component's Deployment is; one that was deleted this moment counts as not started."""
    if deployment is None:
        return Rollout(wanted=0, ready=0, updated=False)
    status = deployment.get("status", {})
    wanted = deployment["spec"].get("replicas", 1)
    updated = (
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("replicas", 0) == status.get("updatedReplicas", 0)
    )
    progress = Rollout(wanted=wanted, ready=status.get("readyReplicas", 0), updated=updated)
    if progress.complete:
        return progress
    return Rollout(progress.wanted, progress.ready, progress.updated, pods_problem(kube, pipeline, component))


def pods_problem(kube: Kube, pipeline: Pipeline, component: str) -> str | None:
    """Return what the first complaining pod of a component says."""
    selector = ",".join(f"{key}={value}" for key, value in pod_selector(pipeline, component).items())
    pods = kube.list(POD, pipeline.namespace, selector=selector)
    return next((problem for pod in pods if (problem := _pod_problem(pod))), None)


def _pod_problem(pod: Object) -> str | None:
    name = pod["metadata"]["name"]
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name} cannot be scheduled: {condition.get('message', '')}"
    for container in pod.get("status", {}).get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason", "ContainerCreating") not in ("ContainerCreating", "PodInitializing"):
            return f"{name}: {waiting['reason']}: {_last_words(container) or waiting.get('message', '')}"
    return None


def _last_words(container: Object) -> str:
    ended = container.get("lastState", {}).get("terminated", {})
    return f"exit code {ended['exitCode']}, see kubectl logs --previous" if ended else ""


def exist(observed: Mapping[Key, Object]) -> bool:
    """Return whether the pipeline ran before: then an outage elsewhere is no reason to leave it as it is."""
    return any(kind == "Deployment" for kind, _ in observed)
