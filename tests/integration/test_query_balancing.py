"""The client configuration of docs/query-api.md, as it is written there, goes round the pods that DNS tells of."""

import ast
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from support.containers import free_port
from support.dns import DnsServer
from support.pipelines import SEED_TS, Pipeline
from support.processes import ServiceProcess, StartService
from support.proxy import CommitProxy
from support.query import store
from support.waiting import wait_until
from support.watching import keys
from support.watching import store as commit

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "query-api.md"
CALLS = 40
"""For each pod, of which its share is told."""
MOVE_SECONDS = 30
ADDRESSES = [f"127.0.1.{number}" for number in range(1, 4)]
CONNECTION_SECONDS = "2"
"""Instead of 20: how long a client may take to look for new pods, beside DNS_MS."""
DNS_MS = 1_000
"""Instead of 30,000."""


def documented() -> dict[str, Any]:
    """Return the SERVICE_CONFIG of the page's Python example."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (block for block in blocks if "SERVICE_CONFIG = {" in block)
    assignments: list[ast.stmt] = [node for node in ast.parse(example).body if _is_constant(node)]
    names: dict[str, Any] = {}
    exec(compile(ast.Module(assignments, []), str(PAGE), "exec"), names)  # noqa: S102 -- our own page
    config: dict[str, Any] = names["SERVICE_CONFIG"]
    return config


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()


@dataclass
class Pods:
    """Query services at addresses of their own and one port, and the DNS that knows of them."""

    pipeline: Pipeline
    start: StartService
    stack: ExitStack
    dns: DnsServer
    port: int = field(default_factory=free_port)
    processes: list[ServiceProcess] = field(default_factory=list)

    def add(self) -> None:
        """Start one more, which DNS knows once it is ready."""
        own = free_port()
        settings = {"SENSORLOG_GRPC_PORT": str(own), "SENSORLOG_CONNECTION_SECONDS": CONNECTION_SECONDS}
        process = self.start("sensorlog_query", self.pipeline, **settings).wait_ready()
        address = ADDRESSES[len(self.processes)]
        self.stack.enter_context(CommitProxy("127.0.0.1", own, (address, self.port)))
        self.processes.append(process)
        self.dns.addresses = [*self.dns.addresses, address]

    @contextmanager
    def stub(self, config: dict[str, Any]) -> Iterator[LoggerStub]:
        """Yield a stub of a client that is configured so."""
        options = [("grpc.service_config", json.dumps(config)), ("grpc.dns_min_time_between_resolutions_ms", DNS_MS)]
        target = f"dns://127.0.0.1:{self.dns.port}/plant-query-pods.plants.svc:{self.port}"
        with grpc.insecure_channel(target, options) as channel:
            yield LoggerStub(channel)

    def answered(self) -> list[float]:
        """Return how many calls each that runs has answered."""
        labels = {"method": "ListSensorData", "code": "OK"}
        return [
            process.metric("sensorlog_query_requests_total", labels) for process in self.processes if process.is_running
        ]


@pytest.fixture
def pods(make_pipeline: Callable[..., Pipeline], start_service: StartService) -> Iterator[Pods]:
    """Return two pods of a pipeline that has a reading."""
    pipeline = make_pipeline(create_topics=False)
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    with ExitStack() as stack:
        pods = Pods(pipeline, start_service, stack, stack.enter_context(DnsServer(())))
        pods.add()
        pods.add()
        yield pods


@contextmanager
def calling(stub: LoggerStub) -> Iterator[None]:
    """Call all the while; each call is answered, whatever happens to the pods."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.005):
            reply = stub.ListSensorData(pb.ListSensorDataReq())
            assert [reading.ts for reading in reply.results] == [SEED_TS]

    with ThreadPoolExecutor(1) as caller:
        work_done = caller.submit(work)
        try:
            yield
        finally:
            over.set()
            work_done.result()


def shares(pods: Pods) -> list[float]:
    """Return how many of the next calls each pod answers."""
    before = pods.answered()
    enough = sum(before) + CALLS * len(before)
    after = wait_until(pods.answered, lambda now: sum(now) >= enough, deadline=MOVE_SECONDS, what="calls")
    return [now - then for now, then in zip(after, before, strict=True)]


def wait_spread(pods: Pods) -> None:
    """Wait until calls go to all pods in turn, up to what a connection that is made anew meanwhile moves."""
    wait_until(
        lambda: shares(pods),
        lambda each: min(each) >= 0.7 * max(each),
        deadline=MOVE_SECONDS,
        what="calls to be spread evenly",
    )


def test_calls_go_round_the_pods_and_follow_them_as_they_come_and_go(pods: Pods) -> None:
    """No call fails: not as a pod is added, not as one stops in order, not as one is killed."""
    with pods.stub(documented()) as stub, calling(stub):
        wait_spread(pods)
        pods.add()
        wait_spread(pods)
        pods.processes[0].stop()
        wait_spread(pods)
        pods.processes[1].kill()
        assert shares(pods) == [pytest.approx(CALLS, rel=0.5)]


def test_watch_outlasts_the_time_that_calls_have(pods: Pods) -> None:
    """The service config's timeout is a deadline for each call of its methods: streams must not be among them."""
    quick = json.loads(json.dumps(documented()).replace('"30s"', '"1s"'))
    assert quick != documented()
    with pods.stub(quick) as stub:
        watch = stub.WatchSensorData(pb.WatchSensorDataReq())
        assert next(watch).resume_token
        with pods.pipeline.locked():
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListSensorData(pb.ListSensorDataReq())
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        commit(pods.pipeline, *keys(1, 1))
        assert [reading.ts for reading in next(watch).results] == [keys(1, 1)[0][0]]
        watch.cancel()
