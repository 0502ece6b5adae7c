"""The commands that read, over a real gRPC connection to a server with known data."""

import json
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerServicer, add_LoggerServicer_to_server
from sensorlog_cli.app import app

SEED = {"ts": 1646409307, "sensor_id": 1, "temperature": 30.0, "cpu": 20.0}
READINGS = [
    pb.SensorData(ts=1646409307, sensor_id=1, temperature=30, cpu=20),
    *(pb.SensorData(ts=1646409308 + n, sensor_id=2, cpu=n, measurements={"humidity": 0.5}) for n in range(11)),
]


class KnownLogger(LoggerServicer):
    """Answers as the contract says, from `READINGS`; remembers what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def ListSensor(self, request: pb.ListSensorReq, context: Any) -> pb.ListSensorReply:  # noqa: ARG002, N802, D102
        self.requests.append(request)
        return pb.ListSensorReply(results=[pb.Sensor(id=1, type="a", location="floor [2]")])

    def ListSensorData(self, request: pb.ListSensorDataReq, context: Any) -> pb.ListSensorDataReply:  # noqa: N802, D102
        self.requests.append(request)
        if request.sensor_ids and request.sensor_ids[0] < 0:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sensor_ids: must not be negative")
        if request.sensor_ids and request.sensor_ids[0] == 404:
            context.abort(grpc.StatusCode.UNAVAILABLE, "database is away")
        start = int(request.page_token or 0)
        ordered = READINGS[::-1] if request.order == pb.ORDER_DESCENDING else READINGS
        end = start + min(request.page_size, 5)  # small pages, so that there are several
        return pb.ListSensorDataReply(
            results=ordered[start:end], next_page_token=str(end) if end < len(READINGS) else ""
        )

    def GetLatestSensorData(  # noqa: N802, D102
        self,
        request: pb.GetLatestSensorDataReq,
        context: Any,  # noqa: ARG002
    ) -> pb.GetLatestSensorDataReply:
        self.requests.append(request)
        return pb.GetLatestSensorDataReply(results=[READINGS[0], READINGS[-1]])

    def GetSensorAvgData(  # noqa: N802, D102
        self,
        request: pb.GetSensorAvgDataReq,
        context: Any,  # noqa: ARG002
    ) -> pb.GetSensorAvgDataReply:
        self.requests.append(request)
        sensor = 1 if request.per_sensor else None
        result = pb.SensorAvgData(period=1646407800, avg_temp=30, avg_cpu=20, count=1, sensor_id=sensor)
        if pb.AGGREGATE_MINIMUM in request.aggregates:
            result.minimums.update({"temperature": 2, "cpu": 1})
        if pb.AGGREGATE_LAST in request.aggregates:
            result.lasts.update({"cpu": 3})
        return pb.GetSensorAvgDataReply(results=[result])

    def GetSensorAvgAndLatestData(  # noqa: N802, D102
        self,
        request: pb.GetSensorAvgAndLatestDataReq,
        context: Any,  # noqa: ARG002
    ) -> pb.GetSensorAvgAndLatestDataReply:
        self.requests.append(request)
        averages = {"temperature": 30.0, "cpu": 20.0, "humidity": 0.25}
        return pb.GetSensorAvgAndLatestDataReply(
            results=[
                pb.SensorAvgAndLatestData(
                    period=1646407800, count=2, averages=averages, last_temp=31, latest={"cpu": 22}
                )
            ]
        )

    def ExportSensorData(  # noqa: N802, D102
        self,
        request: pb.ExportSensorDataReq,  # noqa: ARG002
        context: Any,
    ) -> Iterator[pb.ExportSensorDataReply]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "an older one")
        yield pb.ExportSensorDataReply()


class Served:
    """A server on a port of its own, and the program pointed at it."""

    def __init__(self, logger: KnownLogger, port: int) -> None:
        self.logger = logger
        self.endpoint = f"127.0.0.1:{port}"

    def run(self, *arguments: str) -> Result:
        """Run the program against this server."""
        return CliRunner().invoke(app, [*arguments, "--endpoint", self.endpoint])

    def document(self, *arguments: str) -> Any:
        """Return the JSON that a command that succeeds writes to standard output."""
        result = self.run(*arguments, "--output", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[KnownLogger, int]]:
    """Serve the known data."""
    logger = KnownLogger()  # type: ignore[abstract]  # what it lacks is UNIMPLEMENTED, as of an older service
    running = grpc.server(futures.ThreadPoolExecutor(2))
    add_LoggerServicer_to_server(logger, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield logger, port
    running.stop(None).wait()


@pytest.fixture
def served(server: tuple[KnownLogger, int]) -> Served:
    """Return the server with nothing asked of it yet."""
    logger, port = server
    logger.requests.clear()
    return Served(logger, port)


def test_sensors_as_table_and_json(served: Served) -> None:
    """Text from the data is shown as it is, also where it looks like markup."""
    assert served.document("sensors") == [{"id": 1, "type": "a", "location": "floor [2]"}]
    assert "floor [2]" in served.run("sensors").stdout


def test_readings_as_json_are_what_publish_takes(served: Served) -> None:
    """A NULL measurement is left out; further measurements stand beside the first two."""
    rows = served.document("readings")
    assert rows[0] == SEED
    assert rows[1] == {"ts": 1646409308, "sensor_id": 2, "cpu": 0.0, "humidity": 0.5}
    assert len(rows) == 12


def test_readings_as_lines(served: Served) -> None:
    """The format jsonl is one document a line."""
    result = served.run("readings", "-o", "jsonl")
    assert json.loads(result.stdout.splitlines()[0]) == SEED
    assert result.stderr == ""


def test_readings_table_shows_utc_times_and_dashes(served: Served) -> None:
    """Times are for people, NULL is a dash."""
    lines = served.run("readings").stdout.splitlines()
    assert lines[0].split() == ["time", "(UTC)", "sensor", "temperature", "cpu", "humidity"]
    assert lines[1].split() == ["2022-03-04T15:55:07Z", "1", "30", "20", "-"]
    assert lines[2].split() == ["2022-03-04T15:55:08Z", "2", "-", "0", "0.5"]


def test_timestamp_unit_is_used_for_times(served: Served) -> None:
    """The unit is said where no resource is read."""
    assert "1970-01-20T01:20:09.307" in served.run("readings", "--timestamp-unit", "ms").stdout


def test_all_pages_are_joined_by_token(served: Served) -> None:
    """Each page is asked for with the token of the one before."""
    assert len(served.document("readings", "--all")) == 12
    assert [request.page_token for request in served.logger.requests] == ["", "5", "10"]


def test_a_cut_by_limit_is_said_on_standard_error(served: Served) -> None:
    """Neither a person nor a program takes a part for the whole."""
    result = served.run("readings", "--limit", "7", "-o", "json")
    assert len(json.loads(result.stdout)) == 7
    assert "stopped at 7 readings, there are more" in result.stderr
    assert served.run("readings", "--limit", "12").stderr == ""


def test_order_and_selection_reach_the_server(served: Served) -> None:
    """ISO times, integers and sensors become the request's fields."""
    rows = served.document(
        "readings", "--order", "desc", "--start", "2022-03-04T15:55:07", "--end", "1646409400", "--sensor-id", "2"
    )
    request = served.logger.requests[0]
    assert (request.start_ts, request.end_ts, list(request.sensor_ids)) == (1646409307, 1646409400, [2])
    assert rows[-1] == SEED


def test_latest(served: Served) -> None:
    """One row a sensor."""
    assert [row["sensor_id"] for row in served.document("latest", "--sensor-id", "1")] == [1, 2]
    assert list(served.logger.requests[0].sensor_ids) == [1]


def test_averages_fall_back_to_the_original_fields(served: Served) -> None:
    """A server that fills only avg_temp and avg_cpu is understood."""
    rows = served.document("averages", "--bucket", "30m", "--since", "10m")
    assert rows == [{"period": 1646407800, "count": 1, "averages": {"temperature": 30.0, "cpu": 20.0}}]
    assert served.logger.requests[0].bucket_seconds == 1800
    assert served.logger.requests[0].HasField("start_ts")


def test_averages_per_sensor_have_the_sensor(served: Served) -> None:
    """The series are told apart."""
    header, row = served.run("averages", "--per-sensor").stdout.splitlines()
    assert "sensor" in header
    assert row.split() == ["2022-03-04T15:30:00Z", "1", "1", "30", "20"]


def test_averages_with_latest(served: Served) -> None:
    """Averages and latest values stand side by side."""
    [row] = served.document("averages", "--with-latest")
    assert row["averages"] == {"temperature": 30.0, "cpu": 20.0, "humidity": 0.25}
    assert row["latest"] == {"cpu": 22.0, "temperature": 31.0}
    assert "latest temperature" in served.run("averages", "--with-latest").stdout


def test_averages_ask_for_aggregates_gaps_and_a_zone(served: Served) -> None:
    """What is said reaches the service; --fill-gaps ends now where no end is given."""
    served.run(
        *("averages", "--aggregate", "min,max", "--aggregate", "first", "--fill-gaps", "--from", "1646400000"),
        *("--time-zone", "Europe/Berlin", "--sensor", "7"),
    )
    [request] = served.logger.requests
    assert list(request.aggregates) == [pb.AGGREGATE_MINIMUM, pb.AGGREGATE_MAXIMUM, pb.AGGREGATE_FIRST]
    assert (request.fill_gaps, request.time_zone, request.start_ts) == (True, "Europe/Berlin", 1646400000)
    assert abs(request.end_ts - time.time()) < 60
    assert list(request.sensor_ids) == [7]


def test_aggregates_have_columns_and_keys(served: Served) -> None:
    """Beside the averages; only those that came."""
    [row] = served.document("averages", "--aggregate", "min,last")
    assert (row["minimums"], row["lasts"]) == ({"cpu": 1.0, "temperature": 2.0}, {"cpu": 3.0})
    assert "maximums" not in row
    header, values = served.run("averages", "--aggregate", "min,last").stdout.splitlines()
    assert "min temperature" in header
    assert "last cpu" in header
    assert values.split() == ["2022-03-04T15:30:00Z", "1", "30", "20", "2", "1", "3"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["latest", "--token-file", __file__], 2, "must not travel in clear"),
        (["latest", "--ca-file", "/nowhere/ca.pem"], 2, "cannot read /nowhere/ca.pem: No such file"),
        (["latest", "--tls", "--timeout", "3s"], 3, "UNAVAILABLE"),
        (["averages", "--aggregate", "min,mode"], 2, "'mode' is none of min, max, first, last"),
        (["export", "-o", "xlsx"], 2, "'xlsx' is not one of"),
        (["export", "a", "-p", "b"], 2, "PIPELINE says 'a'"),
        (["export"], 3, "an older one"),
        (["plot"], 2, "--measurement"),
        (["plot", "-m", "cpu", "--start", "5", "--to", "5"], 2, "--end must be later"),
        (["readings", "--sensor-id", "-1"], 2, "sensor_ids: must not be negative"),
        (["readings", "--sensor-id", "404"], 3, "database is away"),
        (["readings", "--start", "yesterday"], 2, "--start: 'yesterday' is no time"),
        (["readings", "--start", "5", "--end", "5"], 2, "--end must be later"),
        (["readings", "--start", "5", "--since", "5m"], 2, "--since and --start"),
        (["readings", "--since", "5x"], 2, "is not a duration"),
        (["readings", "--limit", "0"], 2, "--limit"),
        (["latest", "--max-staleness", "soon"], 2, "is not a duration"),
        (["averages", "--bucket", "1500ms"], 2, "not in whole seconds"),
    ],
)
def test_what_does_not_fit_ends_with_its_status_and_says_why(
    served: Served, arguments: list[str], status: int, said: str
) -> None:
    """One line of error, nothing on standard output, no traceback."""
    result = served.run(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_service_that_is_not_there(served: Served) -> None:
    """It cannot be reached: status 3, and --debug adds the traceback."""
    result = CliRunner().invoke(app, ["latest", "--endpoint", "127.0.0.1:1", "--timeout", "2s", "--debug"])
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert served.run("latest").exit_code == 0
