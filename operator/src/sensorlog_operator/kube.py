"""The Kubernetes API as dicts: get, list, server-side apply with strict field validation, delete.

The official client's generated models drop fields that they do not know, so objects stay plain dicts here.
Foreign errors become PipelineErrors in `Kube._call` and nowhere else.
"""

import json
from collections.abc import Mapping
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
RETRIES = 1
"""Of a request on a connection that was kept and broke meanwhile; the queue comes again for the rest."""

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"

Object = dict[str, Any]


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

    @property
    def full_name(self) -> tuple[str, str]:
        """Group (the core API has none) with version, and plural: what nobody can take for another's."""
        return self.api.removeprefix("/apis/").removeprefix("/api/"), self.plural

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


class Kube:
    """The calls the operator makes; safe to share between threads. Failures are PipelineErrors."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._api = api_client

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return the object, None where it does not exist."""
        return self._call("GET", kind.path(namespace, name), missing_is_none=True)

    def serves(self, api: str) -> bool:
        """Return whether the cluster knows an API, such as /apis/keda.sh/v1alpha1."""
        return self._call("GET", api, missing_is_none=True) is not None

    def list(self, kind: Kind, namespace: str | None = None, *, selector: str = "") -> list[Object]:
        """Return the objects that match a label selector; of all namespaces where none is named."""
        query = {"labelSelector": selector} if selector else {}
        answer = self._call("GET", kind.path(namespace), query) or {}
        # The items of a list do not repeat what they are.
        same = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        return [{**same, **item} for item in answer["items"]]

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
        missing_is_none: bool = False,
    ) -> Object | None:
        request = self._api.param_serialize(
            method=method,
            resource_path=path,
            query_params=list((query or {}).items()),
            header_params={"Accept": JSON, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*request, _request_timeout=REQUEST_TIMEOUT_SECONDS)
            content = response.read()
            if response.status == HTTPStatus.NOT_FOUND and missing_is_none:
                return None  # the answer about an API that the cluster does not know is no JSON
            answer: Object = json.loads(content or b"{}")
        except (client.ApiException, urllib3.exceptions.HTTPError, OSError, ValueError) as e:
            raise UnavailableError(
                Reason.KUBERNETES_UNAVAILABLE, f"The API server does not answer {method} {path}: {e}"
            ) from e
        if response.status == HTTPStatus.UNAUTHORIZED:
            _authenticate(self._api.configuration)  # with the token that came for one that expired
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            raise _refused(method, path, response.status, answer)
        return answer


def _refused(method: str, path: str, status: int, answer: Object) -> PipelineError:
    message = f"The API server refused {method} {path} ({status}): {answer.get('message', 'no message')}"
    # An API server that has just started knows no rights yet: who only looks comes again.
    is_rejected = status == HTTPStatus.FORBIDDEN and method != "GET"
    if is_rejected or status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        return NeedsChangeError(Reason.WORKLOAD_REJECTED, message)
    return UnavailableError(Reason.KUBERNETES_UNAVAILABLE, message)


def connect() -> Kube:
    """Return the API of the cluster this process runs in, else of the current kubeconfig."""
    configuration = client.Configuration(retries=RETRIES)
    _authenticate(configuration)
    return Kube(client.ApiClient(configuration))


def _authenticate(configuration: client.Configuration) -> None:
    try:
        config.load_incluster_config(configuration)
    except config.ConfigException:
        config.load_kube_config(client_configuration=configuration)
