"""The Kubernetes API as dicts: get, list, server-side apply with strict field validation, delete.

The official client's generated models drop fields that they do not know, so objects stay plain dicts here.
Foreign errors become PipelineErrors in `Kube._call` and nowhere else.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import urllib3.exceptions
from kubernetes import client, config

from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason, UnavailableError
from sensorlog_operator.models import GROUP, PLURAL, VERSION

FIELD_MANAGER = "sensorlog-operator"
FINALIZER_MANAGER = "sensorlog-operator-finalizer"
"""A manager of its own, so that applying without a finalizer takes away just that."""

REPLICAS_MANAGER = "sensorlog-operator-replicas"
"""A manager that owns a Deployment's number of pods from when we leave it to a scaler until that changes it."""

REQUEST_TIMEOUT_SECONDS = 10
CONNECT_TIMEOUT_SECONDS = 10
PAGE = 250
"""Objects in one part of a list."""

CONNECTIONS = 64
"""Of the pool: one for each watch and each worker."""

MANAGED_BY = "sensorlog-operator"
INSTANCE = "app.kubernetes.io/instance"
SELECTOR = f"app.kubernetes.io/managed-by={MANAGED_BY},{INSTANCE}"
"""Selects all children; the label INSTANCE names their pipeline."""

RETRIES = 1
"""Of a request on a connection that was kept and broke meanwhile; the queue comes again for the rest."""

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"

Object = dict[str, Any]
Objects = list[Object]


@dataclass(frozen=True, slots=True)
class Kind:
    """Where objects of one kind live in the API."""

    api: str
    plural: str
    watched: bool = True
    """Whether a change is worth a reconcile at once. Scalers write what they measured every few seconds."""
    lasting: bool = True
    """Whether a pipeline always has it; else it is deleted once the resource does not ask for it any more."""
    optional: bool = False
    """Whether some clusters do not know it."""

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Return the path of a collection, an object or a subresource."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        return "/".join(part for part in (f"{self.api}{scope}/{self.plural}", name, subresource) if part)


PIPELINE = Kind(f"/apis/{GROUP}/{VERSION}", PLURAL)
SECRET = Kind("/api/v1", "secrets")
POD = Kind("/api/v1", "pods")
EVENT = Kind("/api/v1", "events")
NAMESPACE = Kind("/api/v1", "namespaces")
CONFIG_MAP = Kind("/api/v1", "configmaps")
SERVICE = Kind("/api/v1", "services")
SERVICE_ACCOUNT = Kind("/api/v1", "serviceaccounts")
DEPLOYMENT = Kind("/apis/apps/v1", "deployments")
DISRUPTION_BUDGET = Kind("/apis/policy/v1", "poddisruptionbudgets")
NETWORK_POLICY = Kind("/apis/networking.k8s.io/v1", "networkpolicies", lasting=False)
QUERY_SCALER = Kind("/apis/autoscaling/v2", "horizontalpodautoscalers", watched=False, lasting=False)
KEDA = "/apis/keda.sh/v1alpha1"
INGEST_SCALER = Kind(KEDA, "scaledobjects", watched=False, lasting=False, optional=True)
SCALER_AUTHENTICATION = Kind(KEDA, "triggerauthentications", watched=False, lasting=False, optional=True)
CLUSTER_ROLE_BINDING = Kind("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings")

CHILD_KINDS: Mapping[str, Kind] = {
    "ServiceAccount": SERVICE_ACCOUNT,
    "ConfigMap": CONFIG_MAP,
    "Service": SERVICE,
    "Deployment": DEPLOYMENT,
    "PodDisruptionBudget": DISRUPTION_BUDGET,
    "NetworkPolicy": NETWORK_POLICY,
    "HorizontalPodAutoscaler": QUERY_SCALER,
    "TriggerAuthentication": SCALER_AUTHENTICATION,
    "ScaledObject": INGEST_SCALER,
}


class ExpiredError(UnavailableError):
    """A watch cannot go on from the version that it was to go on from: mostly because that is too old."""


class Kube:
    """The calls the operator makes; safe to share between threads. Failures are PipelineErrors."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._api = api_client

    @property
    def api_client(self) -> client.ApiClient:
        """What the calls go through."""
        return self._api

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return the object, None where it does not exist."""
        return self._call("GET", kind.path(namespace, name), missing_is_none=True)

    def serves(self, api: str) -> bool:
        """Return whether the cluster knows an API, such as /apis/keda.sh/v1alpha1."""
        return self._call("GET", api, missing_is_none=True) is not None

    def list(self, kind: Kind, namespace: str | None = None, *, selector: str = "") -> Objects:
        """Return the objects that match a label selector; of all namespaces where none is named."""
        query = {"labelSelector": selector} if selector else {}
        answer = self._call("GET", kind.path(namespace), query) or {}
        # The items of a list do not repeat what they are.
        same = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        return [{**same, **item} for item in answer["items"]]

    def children(self, kind: Kind, namespace: str, pipeline: str) -> Objects:
        """Return the children of one kind that a pipeline has, of whichever owner."""
        return self.list(kind, namespace, selector=f"{SELECTOR}={pipeline}")

    def pages(self, kind: Kind, namespace: str | None, query: Mapping[str, str], form: str = "") -> Iterator[Object]:
        """Yield a consistent list in parts; `form` is another kind to be told in, such as PartialObjectMetadata."""
        more: str | None = ""
        while more is not None:
            part = {**query, "limit": str(PAGE), **({"continue": more} if more else {})}
            path, accept = kind.path(namespace), _accept(form and f"{form}List")
            answer = self._call("GET", path, part, accept=accept, missing_is_none=True)
            if answer is None:
                raise NeedsChangeError(Reason.KUBERNETES_UNAVAILABLE, f"The API server does not know {path}.")
            yield answer
            more = answer["metadata"].get("continue") or None  # custom resources' last part has an empty one

    @contextmanager
    def watch(
        self, kind: Kind, namespace: str | None, query: Mapping[str, str], form: str = "", *, silence: float
    ) -> Iterator[Iterator[Object]]:
        """Begin a watch and yield its events, which end when the API server says so.

        Raises ExpiredError where it cannot go on from the version of `query`, UnavailableError also after `silence`
        seconds.
        """
        path = kind.path(namespace)
        with _mapped("GET", path):
            timeout = (CONNECT_TIMEOUT_SECONDS, silence)
            response = self._request("GET", path, {**query, "watch": "true"}, accept=_accept(form), timeout=timeout)
        try:
            if response.status != HTTPStatus.OK:
                with _mapped("GET", path):
                    answer = json.loads(response.read() or b"{}")
                raise _refused("GET", path, response.status, answer)
            yield _events(path, response.response)
        finally:
            response.response.close()

    def named(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return an object as `get` does, by the right to list alone."""
        answer = self._call("GET", kind.path(namespace), {"fieldSelector": f"metadata.name={name}"}) or {}
        return next(iter(answer["items"]), None)

    def apply(self, kind: Kind, body: Object, *, manager: str = FIELD_MANAGER, subresource: str = "") -> Object | None:
        """Apply `body` server-side: fields it names become ours, fields we named before and not now go.

        Returns None where the subresource's object does not exist.
        """
        meta = body["metadata"]
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        path = kind.path(meta["namespace"], meta["name"], subresource)
        return self._call("PATCH", path, query, body, APPLY_PATCH, missing_is_none=bool(subresource))

    def merge(self, kind: Kind, metadata: Object, patch: Object) -> None:
        """Apply a JSON merge patch (RFC 7386) to the object of this metadata."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        path = kind.path(metadata.get("namespace"), metadata["name"])
        self._call("PATCH", path, query, patch, MERGE_PATCH, missing_is_none=True)

    def create(self, kind: Kind, body: Object, *, subresource: str = "") -> Object:
        """Create an object, or what a subresource of one makes, such as a token; return it as it was made."""
        meta = body["metadata"]
        path = kind.path(meta["namespace"], meta["name"] if subresource else "", subresource)
        return self._call("POST", path, {}, body) or {}

    def delete(self, kind: Kind, namespace: str, name: str, *, owns: bool = True) -> None:
        """Delete an object, one that `owns` others once they are gone; one that is gone already is no error."""
        query = {"propagationPolicy": "Foreground" if owns else "Background"}
        self._call("DELETE", kind.path(namespace, name), query, missing_is_none=True)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        *,
        accept: str = JSON,
        missing_is_none: bool = False,
    ) -> Object | None:
        with _mapped(method, path):
            response = self._request(method, path, query, body, content_type, accept=accept)
            content = response.read()
            if response.status == HTTPStatus.NOT_FOUND and missing_is_none:
                return None  # the answer about an API that the cluster does not know is no JSON
            answer: Object = json.loads(content or b"{}")
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            raise _refused(method, path, response.status, answer)
        return answer

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        *,
        accept: str = JSON,
        timeout: float | tuple[float, float] = REQUEST_TIMEOUT_SECONDS,
    ) -> Any:
        def send() -> Any:
            request = self._api.param_serialize(
                method=method,
                resource_path=path,
                query_params=list((query or {}).items()),
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            return self._api.call_api(*request, _request_timeout=timeout)

        response = send()
        if response.status == HTTPStatus.UNAUTHORIZED:
            response.read()
            _authenticate(self._api.configuration)  # another token may have come for one that expired
            response = send()
        return response


@contextmanager
def _mapped(method: str, path: str) -> Iterator[None]:
    try:
        yield
    except (client.ApiException, urllib3.exceptions.HTTPError, OSError, ValueError) as e:
        raise UnavailableError(
            Reason.KUBERNETES_UNAVAILABLE, f"The API server does not answer {method} {path}: {e}"
        ) from e


def _accept(form: str) -> str:
    return f"{JSON};as={form};g=meta.k8s.io;v=v1" if form else JSON


def _events(path: str, response: Any) -> Iterator[Object]:
    """Yield the events of a watch; each is a line."""
    pending = b""
    parts = response.stream()
    while True:
        with _mapped("GET", path):
            part = next(parts, None)
        if part is None:
            return
        *lines, pending = (pending + part).split(b"\n")
        for line in lines:
            with _mapped("GET", path):
                event: Object = json.loads(line)
            if event["type"] == "ERROR":
                message = f"The API server ended the watch of {path}: {event['object'].get('message', 'no message')}"
                raise ExpiredError(Reason.KUBERNETES_UNAVAILABLE, message)
            yield event


def _refused(method: str, path: str, status: int, answer: Object) -> PipelineError:
    message = f"The API server refused {method} {path} ({status}): {answer.get('message', 'no message')}"
    if status == HTTPStatus.GONE:
        return ExpiredError(Reason.KUBERNETES_UNAVAILABLE, message)
    # An API server that has just started knows no rights yet: who only looks comes again.
    is_rejected = status == HTTPStatus.FORBIDDEN and method != "GET"
    if is_rejected or status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        return NeedsChangeError(Reason.WORKLOAD_REJECTED, message)
    return UnavailableError(Reason.KUBERNETES_UNAVAILABLE, message)


def connect() -> Kube:
    """Return the API of the cluster this process runs in, else of the current kubeconfig."""
    configuration = client.Configuration(retries=RETRIES, connection_pool_maxsize=CONNECTIONS)
    _authenticate(configuration)
    return Kube(client.ApiClient(configuration))


def _authenticate(configuration: client.Configuration) -> None:
    try:
        config.load_incluster_config(configuration)
    except config.ConfigException:
        config.load_kube_config(client_configuration=configuration)
