"""Containers of a test run: started once, on host ports that outlive a restart, removed also after a dead run."""

import contextlib
import gc
import os
import secrets
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import docker
import psutil
import pytest
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool

from support.network import Network

LABEL = "sensorlog-test"
"""Label of every container of the tests; its value names the run, see `_run_identity`."""

STOP_SECONDS = 20

NETWORK_ATTEMPTS = 5
"""Addresses are drawn by lot; this many draws find free ones."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run.

    `ports` maps a container's port to a port of 127.0.0.1, so that a restart keeps it; `tmpfs` a folder to the
    options of a file system in memory, which is empty after a restart. With `on_host` the container uses this
    host's network as it is, without `ports` and the process that forwards them, which would be measured too.
    """

    image: str
    name: str
    ports: Mapping[int, int]
    environment: Mapping[str, str]
    command: Sequence[str] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    on_host: bool = False
    entrypoint: Sequence[str] = ()


class ContainerEngine:
    """The machine's Docker, seen through what tests need of it."""

    def __init__(self) -> None:
        problem = ""
        try:
            self._docker = docker.from_env()
        except DockerException as e:
            problem = str(e)
        if problem:
            _collect_half_open_sockets()
            pytest.fail(
                f"integration tests need a running Docker engine; `make test` starts one: {problem}", pytrace=False
            )

    def close(self) -> None:
        """Close the connections to the engine."""
        self._docker.close()

    @contextlib.contextmanager
    def running(self, spec: Spec) -> Iterator[Container]:
        """Yield a started container and remove it with its volumes afterwards."""
        container = self._start(spec)
        try:
            yield container
        finally:
            _remove(container)

    def _start(self, spec: Spec) -> Container:
        try:
            return self._docker.containers.run(
                spec.image,
                list(spec.command) or None,
                entrypoint=list(spec.entrypoint) or None,
                name=f"{spec.name}-{secrets.token_hex(4)}",
                detach=True,
                labels={LABEL: _run_identity(os.getpid())},
                environment=dict(spec.environment),
                tmpfs=dict(spec.tmpfs),
                **_network_of(spec),
            )
        except ImageNotFound:
            pytest.fail(f"image {spec.image} is missing; `make images` builds it", pytrace=False)

    @contextlib.contextmanager
    def network(self) -> Iterator[Network]:
        """Yield a network whose containers have addresses of the test's choice, and remove it afterwards."""
        network = self._create_network()
        try:
            yield network
        finally:
            network.remove()

    def _create_network(self, attempts: int = NETWORK_ATTEMPTS) -> Network:
        prefix = f"198.18.{secrets.randbelow(256)}"  # RFC 2544's range for tests of networks: nobody lives there
        pool = IPAMPool(subnet=f"{prefix}.0/24", gateway=f"{prefix}.1")
        try:
            created = self._docker.networks.create(
                f"sensorlog-test-{secrets.token_hex(4)}",
                labels={LABEL: _run_identity(os.getpid())},
                ipam=IPAMConfig(pool_configs=[pool]),
            )
        except APIError:  # another run has these addresses
            if attempts == 1:
                raise
            return self._create_network(attempts - 1)
        return Network(created, prefix)

    def remove_leftovers(self) -> None:
        """Remove what runs whose process is gone have left; other runs on this machine stay untouched."""
        # Those of other runs may go while we look.
        for container in self._docker.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
            if not _is_alive(container.labels[LABEL]):
                _remove(container)
        for network in self._docker.networks.list(filters={"label": LABEL}):
            if not _is_alive(network.attrs["Labels"][LABEL]):
                with _shared_removal():
                    network.remove()


def _network_of(spec: Spec) -> dict[str, Any]:
    if spec.on_host:
        return {"network_mode": "host"}
    return {"ports": {f"{inside}/tcp": ("127.0.0.1", outside) for inside, outside in spec.ports.items()}}


def _collect_half_open_sockets() -> None:
    """Let go of the socket that docker.from_env() leaves open when it fails: its warning would be an error."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


def _remove(container: Container) -> None:
    with _shared_removal():
        container.remove(v=True, force=True)


@contextlib.contextmanager
def _shared_removal() -> Iterator[None]:
    """Let another process have removed, or be removing, what is removed in this block."""
    try:
        yield
    except NotFound:
        pass
    except APIError as e:
        if e.status_code != HTTPStatus.CONFLICT:
            raise


def _run_identity(pid: int) -> str:
    """Return the run's host and process; with its start time, because pids are used again."""
    return f"{socket.gethostname()}/{pid}/{psutil.Process(pid).create_time():.0f}"


def _is_alive(identity: str) -> bool:
    """Return whether the run is alive; a run of another host, which shares this engine, is taken for alive."""
    host, pid, _ = identity.split("/")
    if host != socket.gethostname():
        return True
    try:
        return _run_identity(int(pid)) == identity
    except psutil.NoSuchProcess:
        return False


class Outages:
    """Mixin: make the thing behind a shared container go away, and come back before the test ends."""

    container: Container

    def wait_ready(self) -> None:
        """Wait until the thing answers."""
        raise NotImplementedError

    def restart(self) -> None:
        """Stop and start the container; its ports stay the same."""
        self.container.restart(timeout=STOP_SECONDS)
        self.wait_ready()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the container in an orderly way within this block."""
        self.container.stop(timeout=STOP_SECONDS)
        try:
            yield
        finally:
            self.container.start()
            self.wait_ready()

    @contextlib.contextmanager
    def killed(self) -> Iterator[None]:
        """Kill the container's processes (SIGKILL), and start them again after this block."""
        self.container.kill()
        try:
            yield
        finally:
            self.container.start()
            self.wait_ready()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the container's processes within this block: connections stay open and nothing answers."""
        self.container.pause()
        try:
            yield
        finally:
            self.container.unpause()
            self.wait_ready()
