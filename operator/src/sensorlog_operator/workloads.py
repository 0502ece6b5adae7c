"""The Kubernetes side of a pipeline: its children, applied server-side where they differ.

A child is applied when its manifest changed (the hash of the last one is an annotation, which also tells of fields
taken away). Where only the live object changed, by hand, exactly the difference is patched back: server-side apply
leaves alone what another manager added, such as an environment variable.

A child that the resource does not ask for any more is deleted. The number of pods that a scaler is to decide is handed
over first: a field that nobody owned any more would fall back to the API's default, one pod. Source: Kubernetes
documentation, "Server-Side Apply", "Transferring ownership".
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from sensorlog_operator.errors import NeedsChangeError, Reason
from sensorlog_operator.kube import CHILD_KINDS, DEPLOYMENT, FIELD_MANAGER, POD, REPLICAS_MANAGER, SECRET, Kube
from sensorlog_operator.manifests import Object, digest, selector_text
from sensorlog_operator.models import GROUP, Pipeline
from sensorlog_operator.plans import Action, Refusal

MANIFEST_HASH = f"{GROUP}/manifest-hash"

WHOLE_MAPS = frozenset({"data", "selector", "matchLabels", "requests", "limits"})
"""Maps in which a stranger's key changes what the object does, and that nobody else has a reason to add to."""

KINDS = {**CHILD_KINDS, "Secret": SECRET}
"""What can be applied. Secrets are watched as those of people are, and not listed: only two names are ours."""

Key = tuple[str, str]
"""Kind and name of a child."""


@dataclass(frozen=True, slots=True)
class ApplyObject(Action):
    """Apply a manifest server-side. `patch` is how it differs from what is there."""

    manifest: Object
    patch: Object = field(default_factory=dict)

    @property
    def detail(self) -> str:
        """The difference."""
        return words(self.patch)


@dataclass(frozen=True, slots=True)
class RepairObject(Action):
    """Set back what was changed by hand; `patch` is a JSON merge patch (RFC 7386)."""

    manifest: Object
    patch: Object

    @property
    def detail(self) -> str:
        """The difference."""
        return words(self.patch)


@dataclass(frozen=True, slots=True)
class HandOverReplicas(Action):
    """Let another manager own the number of pods before we stop naming it, so that it stays as it is."""

    manifest: Object


@dataclass(frozen=True, slots=True)
class DeleteObject(Action):
    """Delete a child that the resource does not ask for any more."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a Deployment is. `problem` says what its pods complain about, None when nothing."""

    wanted: int
    ready: int
    updated: bool
    problem: str | None = None
    present: int = 0
    """Pods that exist, of any template."""

    @property
    def complete(self) -> bool:
        """Whether every wanted pod is ready and of the current template."""
        return self.updated and self.ready >= self.wanted

    def __str__(self) -> str:
        return f"{self.ready}/{self.wanted}"


def observe(kube: Kube, pipeline: Pipeline, *, keda: bool = False) -> dict[Key, Object]:
    """Return the pipeline's children that exist. `keda` is whether the cluster knows KEDA's kinds."""
    return {
        (kind, child["metadata"]["name"]): child
        for kind, where in CHILD_KINDS.items()
        if keda or not where.optional
        for child in kube.children(where, pipeline.namespace, pipeline.name)
    }


def plan(manifests: Iterable[Object], observed: Mapping[Key, Object], owner_uid: str) -> list[Action]:
    """Return the children to apply or delete, each with why; a stranger's object of the same name is refused."""
    manifests = list(manifests)
    actions: list[Action] = list(_unwanted(manifests, observed, owner_uid))
    for manifest in manifests:
        wanted = _with_hash(manifest)
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        live = observed.get((manifest["kind"], manifest["metadata"]["name"]))
        if live is None:
            actions.append(ApplyObject(f"create {name}", wanted, creates=True))
        elif not owned(live, owner_uid):
            actions.append(Refusal(_stranger(name), Reason.WORKLOAD_REJECTED, blocking=True))
        elif live["metadata"].get("annotations", {}).get(MANIFEST_HASH) != digest(manifest):
            patch = difference(wanted, live)
            actions += [*_handed_over(manifest, live), ApplyObject(f"update {name}", wanted, patch, upkeep=True)]
        elif patch := difference(wanted, live):
            actions.append(RepairObject(f"repair {name}: {_first_path(patch)} was changed by hand", wanted, patch))
    return actions


def _unwanted(manifests: Iterable[Object], observed: Mapping[Key, Object], owner_uid: str) -> Iterator[DeleteObject]:
    wanted = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    for (kind, name), live in observed.items():
        is_going = "deletionTimestamp" in live["metadata"]
        if (kind, name) not in wanted and not CHILD_KINDS[kind].lasting and owned(live, owner_uid) and not is_going:
            yield DeleteObject(f"delete {kind} {name}", kind, live["metadata"]["namespace"], name, upkeep=True)


def _handed_over(manifest: Object, live: Object) -> Iterator[HandOverReplicas]:
    if manifest["kind"] != "Deployment" or "replicas" in manifest["spec"] or not _owns_replicas(live):
        return
    name, replicas = live["metadata"]["name"], live["spec"]["replicas"]
    body = {
        "apiVersion": manifest["apiVersion"],
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": live["metadata"]["namespace"]},
        "spec": {"replicas": replicas},
    }
    yield HandOverReplicas(f"leave the {replicas} pods of Deployment {name} to its scaler", body, upkeep=True)


def _owns_replicas(live: Object) -> bool:
    return any(
        entry["manager"] == FIELD_MANAGER and "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        for entry in live["metadata"].get("managedFields", ())
    )


def _with_hash(manifest: Object) -> Object:
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), MANIFEST_HASH: digest(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def owned(live: Object, owner_uid: str) -> bool:
    """Return whether an object belongs to the pipeline of this uid."""
    return any(owner["uid"] == owner_uid for owner in live["metadata"].get("ownerReferences", ()))


def _stranger(name: str) -> str:
    return f"{name} exists and belongs to somebody else: delete it, or give the pipeline another name."


def difference(wanted: Object, live: Object) -> Object:
    """Return the JSON merge patch that gives `live` everything that `wanted` says; empty where it has it.

    What `live` has beyond that is its own (defaults, status), except in maps that are ours as a whole.
    """
    patch: Object = {}
    for key, value in wanted.items():
        now = live.get(key)
        if isinstance(value, dict) and isinstance(now, dict):
            strangers = dict.fromkeys(now.keys() - value.keys()) if key in WHOLE_MAPS else {}
            if inner := strangers | difference(value, now):
                patch[key] = inner
        elif not _same(value, now):
            patch[key] = value
    return patch


def words(patch: Object, path: str = "") -> str:
    """Return a JSON merge patch as lines `path: value`, one a field, without our own annotation."""
    lines = []
    for key, value in patch.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            lines.append(words(value, here))
        elif key != MANIFEST_HASH:
            lines.append(f"{here}: {json.dumps(value, sort_keys=True)}")
    return "\n".join(filter(None, lines))


def _first_path(patch: Object) -> str:
    key, value = next(iter(patch.items()))
    return f"{key}.{_first_path(value)}" if isinstance(value, dict) and value else key


def _same(wanted: Any, live: Any) -> bool:
    if wanted == live or (not wanted and live is None):
        return True  # the API server drops empty maps and lists
    if isinstance(wanted, list) and isinstance(live, list):
        return len(wanted) == len(live) and all(map(_same, wanted, live))
    if isinstance(wanted, dict) and isinstance(live, dict):
        return not difference(wanted, live)
    if isinstance(wanted, str) and isinstance(live, str):
        a, b = _quantity(wanted), _quantity(live)
        return a is not None and a == b  # 1000m is stored as 1
    return False


def _quantity(text: str) -> Decimal | None:
    try:
        return Decimal(parse_quantity(text))
    except (ValueError, InvalidOperation):
        return None


def executable(action: Action) -> bool:
    """Return whether `apply` would do something."""
    return isinstance(action, ApplyObject | RepairObject | HandOverReplicas | DeleteObject)


def apply(kube: Kube, actions: Sequence[Action]) -> None:
    """Do what is no refusal, in order."""
    for action in actions:
        match action:
            case ApplyObject(manifest=manifest, creates=creates):
                if creates:
                    _check_name(kube, manifest)
                kube.apply(KINDS[manifest["kind"]], manifest)
            case HandOverReplicas(manifest=manifest):
                kube.apply(DEPLOYMENT, manifest, manager=REPLICAS_MANAGER)
            case DeleteObject(kind=kind, namespace=namespace, name=name):
                kube.delete(CHILD_KINDS[kind], namespace, name, owns=False)
            case RepairObject(manifest=manifest, patch=patch):
                kube.merge(KINDS[manifest["kind"]], manifest["metadata"], patch)


def _check_name(kube: Kube, manifest: Object) -> None:
    """See that no stranger has the name: without our labels it was not observed, and applying would take it over.

    Raises NeedsChangeError.
    """
    metadata = manifest["metadata"]
    live = kube.named(KINDS[manifest["kind"]], metadata["namespace"], metadata["name"])
    if live and not owned(live, metadata["ownerReferences"][0]["uid"]):
        raise NeedsChangeError(Reason.WORKLOAD_REJECTED, _stranger(f"{manifest['kind']} {metadata['name']}"))


def rollout(kube: Kube, pipeline: Pipeline, component: str, deployment: Object | None) -> Rollout:
    """Return how far a component's Deployment is; one that was deleted this moment counts as not started."""
    if deployment is None:
        return Rollout(wanted=0, ready=0, updated=False)
    wanted = deployment["spec"].get("replicas", 1)
    status = deployment.get("status", {})
    progress = Rollout(
        wanted=wanted,
        ready=status.get("readyReplicas", 0),
        updated=updated(deployment),
        present=status.get("replicas", 0),
    )
    if progress.complete:
        return progress
    return replace(progress, problem=pods_problem(kube, pipeline, component))


def complete(deployment: Object) -> bool:
    """Return whether every pod that a Deployment wants is ready and of its current template."""
    ready = int(deployment.get("status", {}).get("readyReplicas", 0))
    return updated(deployment) and ready >= deployment["spec"].get("replicas", 1)


def updated(deployment: Object) -> bool:
    """Return whether all of a Deployment's pods are of its current template."""
    status = deployment.get("status", {})
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= deployment["spec"].get("replicas", 1)
        and status.get("replicas", 0) == status.get("updatedReplicas", 0)
    )


def pods_problem(kube: Kube, pipeline: Pipeline, component: str) -> str | None:
    """Return what the first complaining pod of a component says."""
    pods = kube.list(POD, pipeline.namespace, selector=selector_text(pipeline, component))
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
