"""All that the command line does in a cluster: read the resource and its pods, run a program in a pod, reach a port.

Objects come back as the plain dicts of the Kubernetes API. Ports are forwarded by `kubectl port-forward`, which is
well kept and knows every kubeconfig; the Python client's own port forward replaces socket functions globally.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

from kubernetes import client, config
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL, WSClient
from websocket import WebSocketException

from sensorlog_cli.errors import CliError, UnreachableError, UsageError
from sensorlog_cli.options import ClusterOptions
from sensorlog_cli.pipelines import Pipeline, from_resource

GROUP, VERSION, PLURAL = "sensorlog.dev", "v1alpha1", "sensorlogpipelines"
QUERY_PORT = 50051
PLAN_PORT = 9091
"""Where the operator's pod answers what applying a resource would do, on its loopback interface."""
OPERATOR_SELECTOR = "app.kubernetes.io/part-of=sensorlog,app.kubernetes.io/component=operator"
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Object = Mapping[str, Any]
"""One object of the Kubernetes API, as its JSON reads."""


class Cluster:
    """A cluster as the kubeconfig names it; every request waits at most the options' timeout.

    Raises kubernetes.config.ConfigException when there is no usable kubeconfig.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        self._timeout = options.timeout_seconds
        settings = client.Configuration()
        context_namespace = _configure(options, settings)
        self.namespace = options.namespace or context_namespace
        settings.retries = False  # a person is waiting, and urllib3 would log each retry
        self._api = client.ApiClient(settings)
        self._core = client.CoreV1Api(self._api)
        self._custom = client.CustomObjectsApi(self._api)

    def resources(self, *, everywhere: bool = False) -> list[Object]:
        """Return the SensorLogPipeline objects of the namespace, or of all namespaces."""
        kind: dict[str, Any] = {"group": GROUP, "version": VERSION, "plural": PLURAL, "_request_timeout": self._timeout}
        answer: Any = (
            self._custom.list_cluster_custom_object(**kind)
            if everywhere
            else self._custom.list_namespaced_custom_object(namespace=self.namespace, **kind)
        )
        return list(answer["items"])

    def resource(self, name: str) -> Object:
        """Return one SensorLogPipeline object; UnreachableError lists those there are instead."""
        resources = {each["metadata"]["name"]: each for each in self.resources()}
        if name not in resources:
            there = f"there are: {', '.join(resources)}" if resources else "there is none"
            raise UnreachableError(f"no SensorLogPipeline {name!r} in namespace {self.namespace!r}; {there}")
        return resources[name]

    def pipeline(self, name: str | None) -> Pipeline:
        """Return the pipeline of that name, or the namespace's only one when no name is given."""
        if name is not None:
            return from_resource(self.resource(name))
        resources = self.resources()
        if not resources:
            raise UnreachableError(
                f"no SensorLogPipeline in namespace {self.namespace!r}; create one, or choose another with -n"
            )
        if len(resources) > 1:
            names = ", ".join(each["metadata"]["name"] for each in resources)
            raise UsageError(f"several pipelines in namespace {self.namespace!r}: {names}; choose with --pipeline")
        return from_resource(resources[0])

    def pods(self, namespace: str, name: str, component: str | None = None) -> list[Object]:
        """Return the pods of a pipeline, or of its `component` (ingest or query)."""
        labels = {"app.kubernetes.io/name": "sensorlog", "app.kubernetes.io/instance": name}
        if component:
            labels["app.kubernetes.io/component"] = component
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return self._items(self._core.list_namespaced_pod, namespace, label_selector=selector)

    def events(self, namespace: str) -> list[Object]:
        """Return the Events of a namespace; the API server keeps them for an hour by default."""
        return self._items(self._core.list_namespaced_event, namespace)

    def _items(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> list[Object]:
        """Return a collection as it came: the client's models refuse objects of API servers newer than itself."""
        answer = call(*arguments, **options, _preload_content=False, _request_timeout=self._timeout)
        return list(json.loads(answer.data)["items"])

    def ingest_pod(self, pipeline: Pipeline, otherwise: str = "") -> str:
        """Return the name of an ingest pod of `pipeline` that runs, a ready one where there is one.

        One that is not ready will do: its database may be away, and the topic takes readings nevertheless.
        UnreachableError when none runs; `otherwise` is what its message offers instead.
        """
        running = [pod for pod in self.pods(pipeline.namespace, pipeline.name, "ingest") if _is_running(pod)]
        if not running:
            raise UnreachableError(
                f"pipeline {pipeline} has no running ingest pod to go through; `sensorlog status` says why{otherwise}"
            )
        return str(max(running, key=_is_ready)["metadata"]["name"])

    def run(self, pod: str, namespace: str, command: Sequence[str], lines: Iterable[str]) -> Iterator[str]:
        """Run `command` in a pod, write `lines` to its standard input, yield the lines of its standard output.

        Both at once, so that neither side fills up. The command ends by what it reads: standard input stays open.
        Raises CliError with the last line of standard error when the command fails, or when it is still silent
        the options' timeout after the last line was written.
        """
        socket = self._exec(pod, namespace, command)
        output = _Lines()
        try:
            for line in lines:
                if not _write(socket, line):
                    break
                yield from output.take(socket)
            yield from self._rest(socket, output)
        finally:
            socket.close()

    def _exec(self, pod: str, namespace: str, command: Sequence[str]) -> WSClient:
        socket: WSClient = stream(
            self._core.connect_get_namespaced_pod_exec,
            pod,
            namespace,
            command=list(command),
            stdin=True,
            stdout=True,
            stderr=True,
            tty=False,
            _preload_content=False,
        )
        return socket

    def _rest(self, socket: WSClient, output: "_Lines") -> Iterator[str]:
        silent_until = time.monotonic() + self._timeout
        while socket.is_open():
            socket.update(timeout=0.2)
            for line in output.take(socket):
                silent_until = time.monotonic() + self._timeout
                yield line
            if time.monotonic() > silent_until:
                raise CliError(f"the program in the pod has been silent for {self._timeout:g} s; see the pod's logs")
        yield from output.take(socket)
        if (failure := _failure(socket)) is not None:
            raise CliError(f"the program in the pod failed: {failure}")

    @contextmanager
    def forwarded(self, pipeline: Pipeline) -> Iterator[str]:
        """Reach the query service of `pipeline` at the yielded `127.0.0.1:port`, for as long as the block lasts.

        Raises UnreachableError when kubectl is not installed or cannot forward.
        """
        command = self._port_forward(pipeline)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:  # noqa: S603
            try:
                yield _forwarded_address(process, self._timeout)
            finally:
                process.terminate()

    def _port_forward(self, pipeline: Pipeline) -> list[str]:
        otherwise = " or name the service with --endpoint HOST:PORT"
        target = [f"--namespace={pipeline.namespace}", "--address=127.0.0.1", f"service/{pipeline.query_service}"]
        return [
            *self.kubectl("it forwards the port of the query service", otherwise),
            "port-forward",
            *target,
            f":{QUERY_PORT}",
        ]

    def kubectl(self, purpose: str, otherwise: str = "") -> list[str]:
        """Return kubectl with the options that choose this cluster.

        UnreachableError where it is not installed says what it is for, and what else would do.
        """
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            raise UnreachableError(
                f"kubectl is not on the PATH, and {purpose}; install it (https://kubernetes.io/docs/tasks/tools/)"
                f"{otherwise}"
            )
        options = (("kubeconfig", self._options.kubeconfig), ("context", self._options.context))
        return [kubectl, *(f"--{flag}={value}" for flag, value in options if value)]

    def annotate(self, name: str, annotation: str, value: str) -> None:
        """Set an annotation of a SensorLogPipeline of the namespace."""
        self._custom.patch_namespaced_custom_object(
            group=GROUP,
            version=VERSION,
            plural=PLURAL,
            namespace=self.namespace,
            name=name,
            body={"metadata": {"annotations": {annotation: value}}},
            _request_timeout=self._timeout,
        )

    @contextmanager
    def operator(self, namespace: str) -> Iterator[str]:
        """Reach the operator's port of plans at the yielded `127.0.0.1:port`, for as long as the block lasts.

        Raises UnreachableError when no operator runs in `namespace`, or kubectl cannot forward to it.
        """
        deployments = self._items(
            client.AppsV1Api(self._api).list_namespaced_deployment, namespace, label_selector=OPERATOR_SELECTOR
        )
        if not deployments:
            raise UnreachableError(
                f"no SensorLog operator in namespace {namespace!r}; name its own with --operator-namespace"
            )
        target = [f"--namespace={namespace}", "--address=127.0.0.1", f"deployment/{deployments[0]['metadata']['name']}"]
        command = [*self.kubectl("it forwards the operator's port"), "port-forward", *target, f":{PLAN_PORT}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:  # noqa: S603
            try:
                yield _forwarded_address(process, self._timeout, "the operator")
            finally:
                process.terminate()


def _configure(options: ClusterOptions, settings: client.Configuration) -> str:
    """Fill `settings` from the kubeconfig, or from the pod this runs in; return the namespace that is meant there."""
    try:
        contexts, active = config.list_kube_config_contexts(options.kubeconfig)
    except config.ConfigException as no_kubeconfig:
        try:
            config.load_incluster_config(settings)
        except config.ConfigException:
            raise no_kubeconfig from None
        return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    config.load_kube_config(options.kubeconfig, context=options.context, client_configuration=settings)
    chosen = next((each for each in contexts if each["name"] == options.context), active)
    return str(chosen["context"].get("namespace", "default"))


def _is_running(pod: Object) -> bool:
    containers = pod.get("status", {}).get("containerStatuses", ())
    return "deletionTimestamp" not in pod["metadata"] and any("running" in c.get("state", {}) for c in containers)


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _write(socket: WSClient, line: str) -> bool:
    """Write a line to the program; return False when it has ended, whose reason its output tells."""
    try:
        socket.write_stdin(line + "\n")
    except (WebSocketException, OSError):
        return False
    return bool(socket.is_open())


def _failure(socket: WSClient) -> str | None:
    """Return why the program that ran over `socket` failed, None when it did not.

    The error channel carries a Status object. WSClient.returncode reads only those of programs that ran: not one
    that could not start, and not a connection that was cut before the Status came.
    """
    sent = socket.read_channel(ERROR_CHANNEL)
    if not sent:
        return "the connection to it was cut"
    status = json.loads(sent)
    if status["status"] == "Success":
        return None
    said = socket.read_stderr().strip().splitlines()
    return str(said[-1] if said else status.get("message", "it says nothing"))


class _Lines:
    """Cuts a stream of text into whole lines."""

    def __init__(self) -> None:
        self._partial = ""

    def take(self, socket: WSClient) -> Iterator[str]:
        """Yield the whole lines of standard output that have arrived."""
        if not socket.peek_stdout():
            return
        *lines, self._partial = (self._partial + socket.read_stdout()).split("\n")
        yield from lines


_FORWARDING = re.compile(r"Forwarding from (127\.0\.0\.1:[0-9]+)")


def _forwarded_address(process: "subprocess.Popen[bytes]", timeout: float, what: str = "the query service") -> str:
    """Return where kubectl listens, which is the first thing it prints."""
    assert process.stdout is not None  # noqa: S101 -- Popen was told to make pipes
    assert process.stderr is not None  # noqa: S101
    ready, _, _ = select([process.stdout], [], [], timeout)
    said = process.stdout.readline().decode() if ready else ""
    if found := _FORWARDING.search(said):
        return found.group(1)
    process.terminate()
    reason = " ".join(process.stderr.read().decode().split()) or f"silent for {timeout:g} s"
    raise UnreachableError(f"cannot forward to {what}: {reason}; `sensorlog status` says more")
