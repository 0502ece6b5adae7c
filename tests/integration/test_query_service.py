"""What the query service is besides its methods: reflection, health, metrics, an orderly end, no traces of probes."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Thread
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from sensorlog.rpc import logger_pb2 as pb
from support.database import Database
from support.pipelines import SEED_TS, Pipeline
from support.query import CALL_SECONDS, QueryService, query_service, readings_locked, running_statements, store
from support.waiting import wait_until

pytestmark = pytest.mark.integration

SERVICE = "logger.service.v1.Logger"
REFLECTION = "grpc.reflection.v1.ServerReflection"
SERVING = health_pb2.HealthCheckResponse.SERVING
COMERS = 50
"""How often each of some clients connects."""
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with one reading."""
    pipeline = make_pipeline(create_topics=False)
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    return pipeline


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service."""
    with query_service(start_service, pipeline) as service:
        yield service


def _health(query: QueryService, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(query.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service)).status)


def test_reflection_tells_the_contract(query: QueryService) -> None:
    """Grpcurl and Postman need no proto file: service, methods and fields are there."""
    database = ProtoReflectionDescriptorDatabase(query.channel)
    assert SERVICE in database.get_services()
    described = DescriptorPool(database).FindServiceByName(SERVICE)
    assert described.file.name == "sensorlog/rpc/logger.proto"
    assert [m.name for m in described.methods] == [m.name for m in pb.DESCRIPTOR.services_by_name["Logger"].methods]
    request = described.methods_by_name["ListSensorData"].input_type
    assert request.fields_by_name["page_token"].number == 6


def test_reflection_is_there_in_v1_too(query: QueryService) -> None:
    """Tools ask for it first. It is asked with the messages that it says it is made of."""
    described = DescriptorPool(ProtoReflectionDescriptorDatabase(query.channel)).FindServiceByName(REFLECTION)
    method = described.methods_by_name["ServerReflectionInfo"]
    assert method.input_type.full_name == "grpc.reflection.v1.ServerReflectionRequest"
    asked, told = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
    path = f"/{REFLECTION}/ServerReflectionInfo"
    ask: Any = query.channel.stream_stream(path, asked.SerializeToString, told.FromString)
    symbols = (SERVICE, f"{SERVICE}.WatchSensorData", f"{SERVICE}.Nothing")
    requests = (asked(list_services=""), *(asked(file_containing_symbol=symbol) for symbol in symbols))
    listed, contract, of_method, nothing = ask(iter(requests), timeout=CALL_SECONDS)
    names = {service.name for service in listed.list_services_response.service}
    assert names == {SERVICE, REFLECTION, "grpc.reflection.v1alpha.ServerReflection", "grpc.health.v1.Health"}
    files = map(FileDescriptorProto.FromString, contract.file_descriptor_response.file_descriptor_proto)
    assert "sensorlog/rpc/logger.proto" in {file.name for file in files}
    assert of_method.file_descriptor_response == contract.file_descriptor_response
    assert nothing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_follows_the_database(query: QueryService, database: Database, service: str) -> None:
    """For the process and for its service by name."""
    assert _health(query, service) == SERVING
    with database.stopped():
        wait_until(lambda: _health(query, service) == NOT_SERVING, deadline=10, what="health to tell")
    wait_until(lambda: _health(query, service) == SERVING, deadline=30, what="health to recover")


def test_callers_who_leave_while_they_hear_of_the_health_stop_nobody(query: QueryService) -> None:
    """A balancing client asks for it on each connection, and connects anew all the time."""

    def come_and_go() -> None:
        for _ in range(COMERS):
            with grpc.insecure_channel(query.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                next(stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10))

    with ThreadPoolExecutor(8) as crowd:
        for each in [crowd.submit(come_and_go) for _ in range(8)]:
            each.result()
    assert len(query.stub.ListSensorData(pb.ListSensorDataReq(), timeout=CALL_SECONDS).results) == 1
    assert _health(query, SERVICE) == SERVING


def test_health_of_an_unknown_service_is_not_found(query: QueryService) -> None:
    """As the health protocol asks."""
    with pytest.raises(grpc.RpcError) as caught:
        _health(query, "nobody")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_metrics_count_calls_rows_and_connections(query: QueryService) -> None:
    """By method and code; under names that dashboards can rely on."""
    query.stub.ListSensorData(pb.ListSensorDataReq())
    with pytest.raises(grpc.RpcError):
        query.stub.ListSensorData(pb.ListSensorDataReq(page=0))
    metric, by_method = query.process.metric, {"method": "ListSensorData"}
    assert metric("sensorlog_query_requests_total", {**by_method, "code": "OK"}) == 1
    assert metric("sensorlog_query_requests_total", {**by_method, "code": "INVALID_ARGUMENT"}) == 1
    assert metric("sensorlog_query_request_seconds_count", by_method) == 2
    assert metric("sensorlog_query_requests_in_flight", by_method) == 0
    assert metric("sensorlog_query_rows_returned_total", by_method) == 1
    assert metric("sensorlog_query_pool_connections") >= 1
    assert metric("sensorlog_query_pool_connections_limit") == 16
    assert metric("sensorlog_query_database_up") == 1


def test_sigterm_lets_calls_finish(query: QueryService, pipeline: Pipeline, database: Database) -> None:
    """Watchers hear NOT_SERVING first, the call at work is answered, the process ends with 0."""
    heard: SimpleQueue[int] = SimpleQueue()
    stub: Any = health_pb2_grpc.HealthStub(query.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    listener = Thread(target=_listen, args=(watch, heard))
    listener.start()
    assert heard.get(timeout=10) == SERVING
    with readings_locked(pipeline):
        call = query.stub.ListSensorData.future(pb.ListSensorDataReq())
        wait_until(lambda: running_statements(database), deadline=10, what="the statement to run")
        query.process.send(signal.SIGTERM)
        assert heard.get(timeout=10) == NOT_SERVING
        assert query.process.is_running
    assert len(call.result(timeout=10).results) == 1
    watch.cancel()
    listener.join()
    assert query.process.process.wait(15) == 0


def _listen(watch: Any, heard: "SimpleQueue[int]") -> None:
    try:
        for reply in watch:
            heard.put(reply.status)
    except grpc.RpcError:
        return  # the service is gone, or the test is over


def test_a_port_in_use_ends_the_process_with_1(start_service: Any, query: QueryService, pipeline: Pipeline) -> None:
    """Rather than sharing the port with a stranger."""
    port = query.target.rpartition(":")[2]
    second = start_service("sensorlog_query", pipeline, SENSORLOG_GRPC_PORT=port)
    assert second.process.wait(20) == 1
    assert f"cannot listen on port {port}" in second.logs
