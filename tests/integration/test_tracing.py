"""Traces over OTLP, from the entry point that the images have: who is whose child, and that nobody waits for them."""

import base64
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from support.collector import Collector, collector
from support.containers import ContainerEngine, free_port
from support.database import Database
from support.kafka import KafkaBroker
from support.operated import OperatedPipeline, login, operated_api_server, start_operator
from support.pipelines import SEED_TS, Pipeline
from support.processes import ServiceProcess
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

ENTRY_POINT = ("sh", str(Path(__file__).parents[2] / "k8s" / "images" / "run-service"))
READING = {"ts": SEED_TS, "sensor_id": 1, "temperature": 30, "cpu": 20}


TALKATIVE = """
import logging
from opentelemetry import metrics, trace
with trace.get_tracer("test").start_as_current_span("said"):
    metrics.get_meter("test").create_counter("said").add(1)
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("test").info("said")
"""


@pytest.fixture
def traces() -> Iterator[Collector]:
    """Yield a collector of traces."""
    with collector() as running:
        yield running


def settings(service: str, endpoint: str) -> dict[str, str]:
    """Return what the chart and the operator set where a collector is named, but for a shorter delay."""
    # The ingest image holds no instrumentation of psycopg, this environment does.
    unlike_image = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "psycopg,grpc"} if service == "ingest" else {}
    return {
        "SENSORLOG_MODULE": f"sensorlog_{service}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_SERVICE_NAME": f"sensorlog-{service}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **unlike_image,
    }


class Services:
    """Services of the test, started as in their images."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[ServiceProcess] = []

    def start(self, service: str, pipeline: Pipeline, endpoint: str, **more: str) -> ServiceProcess:
        """Start a service and wait until it is ready."""
        environment = {**pipeline.environment, **settings(service, endpoint), **more}
        log = self._directory / f"{service}.log"
        self._started.append(ServiceProcess(f"sensorlog_{service}", environment, log, command=ENTRY_POINT))
        return self._started[-1].wait_ready()

    def clean_up(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.clean_up()


@pytest.fixture
def services(tmp_path: Path, pipeline: Pipeline) -> Iterator[Services]:
    """Yield services that end before the pipeline does."""
    assert pipeline
    started = Services(tmp_path)
    yield started
    started.clean_up()


def new_trace() -> tuple[str, str]:
    """Return the ids of a trace and of a span of it."""
    return secrets.token_hex(16), secrets.token_hex(8)


def header(trace: tuple[str, str]) -> str:
    """Return the W3C header of a trace."""
    return f"00-{trace[0]}-{trace[1]}-01"


def test_a_reading_is_followed_from_its_producer_to_the_database(
    traces: Collector, services: Services, pipeline: Pipeline
) -> None:
    """The producer's span, ingest's batch and its transaction are one trace."""
    services.start("ingest", pipeline, traces.endpoint)
    produced = new_trace()
    pipeline.produce([READING], headers=[("traceparent", header(produced).encode())])
    (batch,) = traces.wait("sensorlog-ingest", "write batch", sensorlog_rows=1)
    assert (batch.trace_id, batch.parent_id) == produced
    assert batch.links == (produced,)
    (stored,) = traces.wait("sensorlog-ingest", "COPY sensor_data")
    assert (stored.trace_id, stored.parent_id) == (batch.trace_id, batch.span_id)
    assert stored.attributes["db.system.name"] == "postgresql"
    assert pipeline.count() == 1


def test_only_traces_are_sent(traces: Collector, tmp_path: Path) -> None:
    """Jaeger takes no metrics and no logs: sending them would fill the log with its refusals."""
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    environment = {**os.environ, **settings("ingest", traces.endpoint), "PYTHONPATH": str(tmp_path)}
    environment["SENSORLOG_MODULE"] = "talkative"
    done = subprocess.run(ENTRY_POINT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    traces.wait("sensorlog-ingest", "said")
    assert done.stderr == ""


def test_a_batch_of_many_messages_has_two_spans_and_links(
    traces: Collector, services: Services, pipeline: Pipeline
) -> None:
    """No span per message: a batch of several traces has its own, which links to each of them."""
    first, second = new_trace(), new_trace()
    for trace in (first, second):
        pipeline.produce([READING] * 250, headers=[("traceparent", header(trace).encode())])
    process = services.start("ingest", pipeline, traces.endpoint)
    wait_for_value(pipeline.count, 500, deadline=30, what="what is stored")
    batches = wait_until(
        lambda: [span for span in traces.spans("sensorlog-ingest") if span.name == "write batch"],
        lambda spans: sum(span.attributes["sensorlog.rows"] for span in spans) == 500,
        deadline=30,
        what="spans of all rows",
    )
    assert {link for batch in batches for link in batch.links} == {first, second}
    assert all(batch.parent_id == "" for batch in batches if len(batch.links) == 2)
    commits = int(process.metric("sensorlog_ingest_commit_seconds_count"))
    assert len(traces.spans("sensorlog-ingest")) <= 2 * commits


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_querys_trace_reaches_the_statement(
    processes: str, traces: Collector, services: Services, pipeline: Pipeline
) -> None:
    """The caller's span, the call and its SQL are one trace; probes are in none."""
    port = str(free_port())
    more = {"SENSORLOG_GRPC_PORT": port, "SENSORLOG_PROCESSES": processes}
    services.start("query", pipeline, traces.endpoint, **more)
    caller = new_trace()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        LoggerStub(channel).ListSensorData(
            pb.ListSensorDataReq(), metadata=(("traceparent", header(caller)),), timeout=20
        )
    name = "/logger.service.v1.Logger/ListSensorData"
    (call,) = traces.wait("sensorlog-query", name)
    assert (call.trace_id, call.parent_id) == caller
    statements = wait_until(
        lambda: [s for s in traces.spans("sensorlog-query") if s.trace_id == caller[0] and s != call],
        deadline=30,
        what="the statement's span",
    )
    assert any("sensor_data" in str(s.attributes.get("db.statement")) for s in statements)
    assert {s.parent_id for s in statements} == {call.span_id}
    assert not [s for s in traces.spans("sensorlog-query") if "Health" in s.name]


def test_a_reconcile_is_a_trace_with_its_statements(
    traces: Collector, engine: ContainerEngine, broker: KafkaBroker, database: Database, tmp_path: Path
) -> None:
    """What the operator asked of the database, and when, per pipeline."""
    with operated_api_server(engine) as server:
        server.call("POST", "/api/v1/namespaces", {"metadata": {"name": "traced"}})
        uri = base64.b64encode(login(database).uri.encode()).decode()
        secret = {"metadata": {"name": "timescaledb"}, "data": {"uri": uri}}
        server.call("POST", "/api/v1/namespaces/traced/secrets", secret)
        process = start_operator(server, tmp_path, ENTRY_POINT, **settings("operator", traces.endpoint))
        try:
            process.wait_ready()
            pipeline = OperatedPipeline(server, broker, "traced").create()
            pipeline.wait_condition("SchemaReady", "True", "Ready")
            reconciles = {
                s.span_id: s.trace_id
                for s in traces.wait("sensorlog-operator", "reconcile", sensorlog_pipeline="traced/plant")
            }
            created = wait_until(
                lambda: [
                    s
                    for s in traces.spans("sensorlog-operator")
                    if "CREATE" in str(s.attributes.get("db.statement")) and s.parent_id in reconciles
                ],
                deadline=30,
                what="the statements that make the tables",
            )
            assert all(s.trace_id == reconciles[s.parent_id] for s in created)
            assert not [s for s in traces.spans("sensorlog-operator") if s.name != "reconcile" and not s.parent_id]
            pipeline.delete()
        finally:
            process.clean_up()


def test_a_collector_that_is_away_costs_no_reading(services: Services, pipeline: Pipeline) -> None:
    """Spans that nobody takes are dropped; ingest stays ready and stores, and stops in time."""
    process = services.start("ingest", pipeline, f"http://127.0.0.1:{free_port()}")
    pipeline.produce([READING] * 10, headers=[("traceparent", header(new_trace()).encode())])
    wait_for_value(pipeline.count, 10, deadline=30, what="what is stored")
    assert process.get("/readyz")[0] == 200
    assert process.stop() == 0
