"""The operator as a process of its own, with the rights that the chart gives it in a real API server, and no others.

No controllers run there: Deployments stay without pods, and what a scaler would do is done by the test.
"""

import base64
import contextlib
import secrets
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sensorlog_operator import crd
from sensorlog_operator.connection_uri import with_login
from sensorlog_operator.kube import KEDA
from support.apiserver import ApiServer, Object, running_api_server
from support.cluster import merged, run
from support.containers import ContainerEngine
from support.database import Database
from support.kafka import KafkaBroker
from support.processes import ServiceProcess
from support.waiting import wait_until

RELEASE = "sensorlog"
NAMESPACE = "sensorlog"
ACCOUNT = f"{RELEASE}-operator"
CANARY_ACCOUNT = f"{ACCOUNT}-canary"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
RESYNC_SECONDS = 2

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
}


@contextlib.contextmanager
def operated_api_server(engine: ContainerEngine, *, rights: bool = True) -> Iterator[ApiServer]:
    """Yield one that knows pipelines, and where the operator has an account, with the chart's rights or without."""
    with running_api_server(engine) as server:
        install_resource(server)
        for account in (ACCOUNT, CANARY_ACCOUNT):
            server.account(NAMESPACE, account)
        if rights:
            install_rights(server)
        yield server


def rendered(*options: str) -> list[Object]:
    """Return what the chart installs with these options of Helm."""
    text = run("helm", "template", RELEASE, "charts/sensorlog", "-n", NAMESPACE, *options)
    return [document for document in yaml.safe_load_all(text) if document]


def install_rights(server: ApiServer, *options: str) -> None:
    """Give the operator's account what the chart gives it with these options."""
    for document in rendered(*options):
        if plural := PLURALS.get(document["kind"]):
            namespace = document["metadata"].get("namespace")
            scope = f"/namespaces/{namespace}" if namespace else ""
            server.call("POST", f"{RBAC}{scope}/{plural}", document)


def remove_rights(server: ApiServer) -> None:
    """Take away all that `install_rights` gave."""
    selector = f"?labelSelector=app.kubernetes.io/instance={RELEASE}"
    for plural in PLURALS.values():
        for item in server.call("GET", f"{RBAC}/{plural}{selector}")["items"]:
            namespace = item["metadata"].get("namespace")
            scope = f"/namespaces/{namespace}" if namespace else ""
            server.call("DELETE", f"{RBAC}{scope}/{plural}/{item['metadata']['name']}")


def install_resource(server: ApiServer) -> None:
    """Install the CRD and wait until it is served."""
    definition = crd.custom_resource_definition()
    server.call("POST", CRDS, definition)
    _wait_served(server, pipelines_path("default"))


def install_keda(server: ApiServer) -> None:
    """Make the API server know the two kinds of KEDA that the operator writes; nobody acts on them."""
    for kind, plural in (("ScaledObject", "scaledobjects"), ("TriggerAuthentication", "triggerauthentications")):
        names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
        spec = {"group": "keda.sh", "names": names, "scope": "Namespaced", "versions": [version]}
        metadata = {"name": f"{plural}.keda.sh"}
        definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
        server.call("POST", CRDS, {**definition, "metadata": metadata, "spec": spec})
        _wait_served(server, f"{KEDA}/{plural}")


def _wait_served(server: ApiServer, path: str) -> None:
    wait_until(lambda: server.call("GET", path), deadline=30, what=f"{path} to be served")


def remove_keda(server: ApiServer) -> None:
    """Take both kinds away."""
    for plural in ("scaledobjects", "triggerauthentications"):
        server.call("DELETE", f"{CRDS}/{plural}.keda.sh")


def pipelines_path(namespace: str) -> str:
    """Return where the pipelines of a namespace are."""
    return f"/apis/sensorlog.dev/v1alpha1/namespaces/{namespace}/sensorlogpipelines"


def kubeconfig(server: ApiServer, path: Path, account: str = ACCOUNT) -> Path:
    """Write a kubeconfig with a token of the operator's account, or of another one of its namespace."""
    return write_kubeconfig(
        server, path, server.token({"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE})
    )


def write_kubeconfig(server: ApiServer, path: Path, token: str) -> Path:
    """Write a kubeconfig with this token."""
    authority = base64.b64encode(server.authority.certificate).decode()
    cluster = {"server": server.url, "certificate-authority-data": authority}
    context = {"cluster": "test", "user": "operator"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": context}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(document))
    return path


@dataclass(frozen=True)
class Login:
    """A user of the database who may create schemas and roles, with a password to look for."""

    name: str
    password: str
    uri: str


def login(database: Database) -> Login:
    """Return a new user; like what it makes, it goes with the database."""
    name, password = f"provisioner_{secrets.token_hex(4)}", f"pw-{secrets.token_hex(12)}"
    database.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD '{password}'")
    database.execute(f"GRANT CREATE ON DATABASE {database.execute('SELECT current_database()')[0][0]} TO {name}")
    return Login(name, password, with_login(database.uri, name, password))


@dataclass
class OperatedPipeline:
    """One pipeline in the API server, of a namespace of its own."""

    server: ApiServer
    broker: KafkaBroker
    namespace: str
    name: str = "plant"

    @property
    def path(self) -> str:
        """Where the resource is."""
        return f"{pipelines_path(self.namespace)}/{self.name}"

    @property
    def schema(self) -> str:
        """Its schema, where the resource names no other."""
        return f"slp_{self.namespace}_{self.name}".replace("-", "_")

    @property
    def topic(self) -> str:
        """Its topic of readings, where the resource names no other."""
        return f"{self.namespace}.{self.name}.readings"

    def create(self, **spec: Any) -> "OperatedPipeline":
        """Create the resource."""
        base = {
            "kafka": {
                "bootstrapServers": self.broker.bootstrap_servers,
                "readings": {"topic": self.topic, "partitions": 4},
                "sensors": {"topic": f"{self.namespace}.{self.name}.sensors"},
            },
            "timescale": {"connectionSecretRef": {"name": "timescaledb"}},
        }
        body = {
            "apiVersion": "sensorlog.dev/v1alpha1",
            "kind": "SensorLogPipeline",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": merged(base, spec),
        }
        self.server.call("POST", pipelines_path(self.namespace), body)
        return self

    def change(self, **spec: Any) -> None:
        """Change the resource's spec; a field that is None is taken away."""
        self.server.merge(self.path, {"spec": spec})

    def get(self) -> Object:
        """Return the resource."""
        return self.server.call("GET", self.path)

    def condition(self, kind: str) -> Object | None:
        """Return a condition, None where there is none."""
        found = self.get().get("status", {}).get("conditions", ())
        return next((one for one in found if one["type"] == kind), None)

    def wait_condition(self, kind: str, status: str, reason: str, *, deadline: float = 45) -> Object:
        """Wait until a condition has a status and a reason; return it."""
        found = wait_until(
            lambda: self.condition(kind),
            lambda one: one is not None and (one["status"], one["reason"]) == (status, reason),
            deadline=deadline,
            what=f"{kind}={status} with reason {reason}",
        )
        assert found is not None
        return found

    def status(self) -> Object:
        """Return the resource's status."""
        found: Object = self.get().get("status") or {}
        return found

    def pending_plan(self, *words: str) -> Object:
        """Wait until a plan waits for approval that says all of these words in its summaries; return it."""

        def waits(plan: Object) -> bool:
            said = "\n".join(action["summary"] for action in plan.get("actions", ()))
            return bool(plan) and not plan["approved"] and all(word in said for word in words)

        return wait_until(lambda: self.status().get("plan") or {}, waits, deadline=45, what=f"a plan to {words}")

    def approve(self, *words: str) -> Object:
        """Approve the plan that waits, once it says these words; return it."""
        plan = self.pending_plan(*words)
        self.server.merge(self.path, {"metadata": {"annotations": {"sensorlog.dev/approve": plan["hash"]}}})
        return plan

    def approve_deletion(self) -> None:
        """Let the deletion of the resource take its data too."""
        self.approve("when the resource is deleted")
        wait_until(lambda: self.get()["metadata"].get("finalizers"), deadline=45, what="the finalizer")

    def child(self, api: str, plural: str, component: str) -> Object | None:
        """Return a component's child, None where it does not exist."""
        return self.server.find(f"{api}/namespaces/{self.namespace}/{plural}/{self.name}-{component}")

    def wait_child(
        self,
        api: str,
        plural: str,
        component: str,
        satisfied: Callable[[Object | None], bool] = lambda child: child is not None,
    ) -> Object | None:
        """Wait until a component's child is, or is as wanted."""
        return wait_until(
            lambda: self.child(api, plural, component),
            satisfied,
            deadline=45,
            what=f"{plural} {self.name}-{component}",
        )

    def deployment(self, component: str) -> Object | None:
        """Return a component's Deployment."""
        return self.child("/apis/apps/v1", "deployments", component)

    def replicas(self, component: str) -> int:
        """Return how many pods a component's Deployment is to have."""
        found = self.deployment(component)
        assert found is not None, f"there is no Deployment for {component}"
        return int(found["spec"]["replicas"])

    def delete(self) -> None:
        """Delete the resource and wait until it is gone."""
        with contextlib.suppress(urllib.error.HTTPError):
            self.server.call("DELETE", self.path)
        wait_until(lambda: self.server.find(self.path) is None, deadline=45, what=f"{self.path} to be gone")


def start_operator(server: ApiServer, directory: Path, command: Sequence[str] = (), **settings: str) -> ServiceProcess:
    """Start the operator as its account, by `command` if one is given; the caller waits for it and ends it."""
    environment = {
        "KUBECONFIG": str(kubeconfig(server, directory / "kubeconfig")),
        "SENSORLOG_INGEST_IMAGE": "sensorlog/ingest:test",
        "SENSORLOG_QUERY_IMAGE": "sensorlog/query:test",
        "SENSORLOG_RESYNC_SECONDS": str(RESYNC_SECONDS),
        "SENSORLOG_NAMESPACE": NAMESPACE,
        "SENSORLOG_TOKEN_REVIEWERS": f"{ACCOUNT}-token-reviewers",
        "SENSORLOG_LOG_LEVEL": "DEBUG",
        "SENSORLOG_LOG_FORMAT": "json",
        **settings,
    }
    return ServiceProcess("sensorlog_operator", environment, directory / "operator.log", command=command)
