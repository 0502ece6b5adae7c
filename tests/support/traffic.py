"""Programs that run in pods of the test's namespace while something else happens."""

import json
from dataclasses import dataclass
from pathlib import Path

from support.cluster import Cluster, Object
from support.waiting import wait_until

PROGRAMS = Path(__file__).parents[1] / "e2e/traffic"
READY_SECONDS = 60
FINISH_SECONDS = 90


@dataclass(frozen=True)
class Traffic:
    """One of the programs in tests/e2e/traffic, running in a pod."""

    cluster: Cluster
    namespace: str
    name: str

    @property
    def _pod(self) -> Object:
        return self.cluster.get("pod", self.name, self.namespace)

    def wait_running(self) -> "Traffic":
        """Wait until the program runs."""
        wait_until(
            lambda: self._pod["status"]["phase"],
            lambda phase: phase == "Running",
            deadline=READY_SECONDS,
            what=f"pod {self.name} to run",
        )
        return self

    def finish(self) -> Object:
        """Let the program end and return what it prints."""
        touch = ("python", "-c", "open('/tmp/stop', 'w')")
        self.cluster.kubectl("-n", self.namespace, "exec", self.name, "--", *touch)
        wait_until(
            lambda: self._pod["status"]["phase"],
            lambda phase: phase in ("Succeeded", "Failed"),
            deadline=FINISH_SECONDS,
            what=f"pod {self.name} to end",
        )
        log = self.cluster.kubectl("-n", self.namespace, "logs", self.name).splitlines()
        assert self._pod["status"]["phase"] == "Succeeded", log[-20:]
        result: Object = json.loads(log[-1])
        return result


def start(cluster: Cluster, namespace: str, program: str, image: str, *arguments: str) -> Traffic:
    """Start a program in a pod of an image; the caller waits for it."""
    source = (PROGRAMS / f"{program}.py").read_text()
    container = {
        "name": "program",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", source, *arguments],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 -- an emptyDir of the pod
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    cluster.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": program, "namespace": namespace}, "spec": spec}
    )
    return Traffic(cluster, namespace, program)
