"""A Kubernetes API server with etcd and nothing else, in one container of the node image of the clusters here.

It authenticates and authorizes as in a cluster, and is there within seconds.
"""

import contextlib
import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from docker.models.containers import Container

from support.containers import ContainerEngine, Outages, Spec, free_port
from support.tls import Authority, Issued
from support.waiting import wait_until

JSON = "application/json"
ROOT = Path(__file__).parents[2]
ADMIN_TOKEN = "admin"  # noqa: S105 -- of a server that lives for a test
READY_SECONDS = 90
NODE_IMAGES = ("--filter", "reference=sensorlog/kind-node", "--filter", "reference=kindest/node")
"""Built here, or pulled where that is possible."""

START = """
cd /var/lib/containerd/io.containerd.content.v1.content/blobs/sha256
for layer in *; do
  for name in kube-apiserver etcd; do tar -xf $layer -C /tmp usr/local/bin/$name 2>/dev/null || true; done
done
cd /tmp
echo "$TLS_CRT" >tls.crt; echo "$TLS_KEY" >tls.key
echo '{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}' >audit.json
echo 'admin,admin,admin,"system:masters"' >tokens.csv
usr/local/bin/etcd --data-dir /tmp/etcd --log-level error &
exec usr/local/bin/kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 \
  --tls-cert-file=tls.crt --tls-private-key-file=tls.key --token-auth-file=tokens.csv --authorization-mode=RBAC \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=tls.crt \
  --service-account-signing-key-file=tls.key --disable-admission-plugins=ServiceAccount \
  --service-cluster-ip-range=10.0.0.0/16 --audit-policy-file=audit.json --audit-log-path=audit.log
"""

Object = dict[str, Any]


def node_image() -> str:
    """Return the image of nodes, built where it is missing."""
    subprocess.run(["k8s/kind/cluster.sh", "node-image"], cwd=ROOT, check=True, timeout=1800)
    found = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", *NODE_IMAGES]
    return subprocess.run(found, check=True, capture_output=True, text=True, timeout=60).stdout.split()[0]


def api_server_spec(port: int, certificate: Issued) -> Spec:
    """Return what to run, for an API server at a port of this host; its certificate's key signs tokens too."""
    environment = {"TLS_CRT": certificate.certificate.decode(), "TLS_KEY": certificate.key.decode()}
    return Spec(node_image(), "sensorlog-apiserver", {6443: port}, environment, [START], entrypoint=("sh", "-ec"))


@contextlib.contextmanager
def running_api_server(engine: ContainerEngine) -> Iterator["ApiServer"]:
    """Yield an API server in a container, ready."""
    authority, port = Authority("cluster"), free_port()
    with engine.running(api_server_spec(port, authority.issue())) as container:
        server = ApiServer(f"https://127.0.0.1:{port}", authority, container)
        server.wait_ready()
        yield server


@dataclass
class ApiServer(Outages):
    """The server, as its administrator sees it."""

    url: str
    authority: Authority
    container: Container

    def wait_ready(self) -> None:
        """Wait until it answers with its built-in roles in place."""
        role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin"
        wait_until(lambda: self.call("GET", role), deadline=READY_SECONDS, what="the API server")

    def call(
        self, method: str, path: str, body: Object | None = None, *, token: str = ADMIN_TOKEN, kind: str = JSON
    ) -> Object:
        """Return the answer to a call; urllib's HTTPError where it is refused. `kind` is the body's content type."""
        answer: Object = json.loads(self.text(method, path, body, token=token, kind=kind))
        return answer

    def text(
        self, method: str, path: str, body: Object | None = None, *, token: str = ADMIN_TOKEN, kind: str = JSON
    ) -> str:
        """Return the answer to a call as it came; else as `call`."""
        request = urllib.request.Request(  # noqa: S310 -- our own server
            self.url + path,
            json.dumps(body).encode() if body else None,
            {"Authorization": f"Bearer {token}", "Content-Type": kind},
            method=method,
        )
        trusted = ssl.create_default_context(cadata=self.authority.certificate.decode())
        with urllib.request.urlopen(request, timeout=10, context=trusted) as reply:  # noqa: S310
            return str(reply.read().decode())

    def find(self, path: str) -> Object | None:
        """Return an object, None where it does not exist."""
        try:
            return self.call("GET", path)
        except urllib.error.HTTPError as e:
            with e:
                if e.code == HTTPStatus.NOT_FOUND:
                    return None
                raise

    def merge(self, path: str, patch: Object) -> Object:
        """Change an object by a JSON merge patch; return it."""
        return self.call("PATCH", path, patch, kind="application/merge-patch+json")

    def requests(self, user: str) -> list[Object]:
        """Return the audit events of a user's requests, of each its end; for a watch the moment it began."""
        # Not docker-py's exec_run, which now and then leaves a frame's header in the middle of what it returns.
        read = ["docker", "exec", str(self.container.id), "cat", "/tmp/audit.log"]  # noqa: S108 -- the container's own
        log = subprocess.run(read, capture_output=True, check=True).stdout
        events = [json.loads(line) for line in log.decode().splitlines() if f'"username":"{user}"' in line]
        return [event for event in events if event["stage"] in ("ResponseComplete", "ResponseStarted")]

    def account(self, namespace: str, name: str) -> Object:
        """Create a ServiceAccount, and its namespace where there is none; return it as a subject of bindings."""
        try:
            self.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        except urllib.error.HTTPError as e:
            e.close()
        self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        return {"kind": "ServiceAccount", "name": name, "namespace": namespace}

    def token(self, subject: Object, *audiences: str) -> str:
        """Return a token of a ServiceAccount, for the API server itself where no audience is named."""
        path = f"/api/v1/namespaces/{subject['namespace']}/serviceaccounts/{subject['name']}/token"
        answer = self.call("POST", path, {"spec": {"audiences": list(audiences)}})
        return str(answer["status"]["token"])

    def grant(self, subject: Object, role: str, rules: list[Object], namespace: str | None = None) -> None:
        """Let a subject do what `rules` say: in a namespace, or everywhere."""
        base = "/apis/rbac.authorization.k8s.io/v1"
        self.call("POST", f"{base}/clusterroles", {"metadata": {"name": role}, "rules": rules})
        kind = f"namespaces/{namespace}/rolebindings" if namespace else "clusterrolebindings"
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        binding = {"metadata": {"name": role}, "roleRef": reference, "subjects": [subject]}
        self.call("POST", f"{base}/{kind}", binding)
