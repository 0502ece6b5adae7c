"""The commands export and plot against a real service and a real database."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from sensorlog.measurements import Measurement
from sensorlog_cli.app import app
from sensorlog_cli.writers import ROW_GROUP_BYTES
from support.pipelines import SEED_TS, Pipeline
from support.query import QueryService, Reading, in_order, query_service, random_readings, store
from support.tls import Authority, MountedSecret
from support.waiting import wait_until

pytestmark = pytest.mark.integration

READINGS = random_readings(12)
MANY = 2_000_000
MEGABYTE = 1024 * 1024
YEAR = 365 * 86_400


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline that needs no topics."""
    return make_pipeline(create_topics=False)


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service."""
    with query_service(start_service, pipeline) as service:
        yield service


@pytest.fixture
def many(pipeline: Pipeline) -> None:
    """Store MANY readings, a hundred a moment."""
    pipeline.query(
        "INSERT INTO sensor_data SELECT to_timestamp(%s + n / 100), n %% 100, n, NULLIF(n %% 7, 0)"
        " FROM generate_series(0, %s) n",
        [SEED_TS, MANY - 1],
    )


def _run(query: QueryService, *arguments: str) -> Result:
    """Run a command that succeeds."""
    result = CliRunner().invoke(app, [*arguments, "--endpoint", query.target])
    assert result.exit_code == 0, result.output
    return result


def _from_csv(data: bytes) -> list[Reading]:
    rows = csv.DictReader(data.decode().splitlines())
    return [(_ts(r["time"]), int(r["sensor_id"]), (_number(r["temperature"]), _number(r["cpu"]))) for r in rows]


def _ts(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _number(text: str) -> float | None:
    return float(text) if text else None


def _from_jsonl(data: bytes) -> list[Reading]:
    rows = map(json.loads, data.splitlines())
    return [(r["ts"], r["sensor_id"], (r.get("temperature"), r.get("cpu"))) for r in rows]


def _from_parquet(data: bytes) -> list[Reading]:
    return _from_table(pq.read_table(BytesIO(data)))


def _from_arrow(data: bytes) -> list[Reading]:
    return _from_table(pa.ipc.open_stream(data).read_all())


def _from_table(table: pa.Table) -> list[Reading]:
    return [(int(r["time"].timestamp()), r["sensor_id"], (r["temperature"], r["cpu"])) for r in table.to_pylist()]


READERS = {"csv": _from_csv, "jsonl": _from_jsonl, "parquet": _from_parquet, "arrow": _from_arrow}


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("to_file", [True, False], ids=["file", "pipe"])
def test_what_is_exported_is_what_was_stored(
    query: QueryService, pipeline: Pipeline, tmp_path: Path, form: str, *, to_file: bool
) -> None:
    """Every reading once, in order of time and sensor, to the last bit."""
    store(pipeline, READINGS)
    path = tmp_path / "readings"
    result = _run(query, "export", pipeline.config.name, "-o", form, "-f", str(path) if to_file else "-")
    rows = READERS[form](path.read_bytes() if to_file else result.stdout_bytes)
    expected = in_order(READINGS)
    assert [r[:2] for r in rows] == [r[:2] for r in expected]
    assert in_order(rows) == expected
    assert result.stderr == (f"exported 600 readings to {path}\n" if to_file else "")


def test_range_sensors_and_columns_are_chosen(query: QueryService, pipeline: Pipeline) -> None:
    """By the options that readings has, and the names --from, --to and --sensor."""
    store(pipeline, READINGS)
    chosen = ("--from", "2022-03-05", "--to", str(SEED_TS + 2 * 86_400), "--sensor", "1", "--sensor", "7")
    lines = _run(query, "export", *chosen, "--measurement", "cpu").stdout.splitlines()
    low, high = _ts("2022-03-05T00:00:00Z"), SEED_TS + 2 * 86_400
    expected = [r for r in in_order(READINGS) if low <= r[0] < high and r[1] in (1, 7)]
    assert lines[0] == "time,sensor_id,cpu"
    assert [(_ts(t), int(s)) for t, s, _ in csv.reader(lines[1:])] == [r[:2] for r in expected]


def test_other_units_and_measurements(start_service: Any, make_pipeline: Callable[..., Pipeline]) -> None:
    """Times in milliseconds, a measurement beside the first two."""
    wet = make_pipeline(create_topics=False, timestamp_unit="ms", measurements=(Measurement(name="humidity"),))
    wet.query("INSERT INTO sensor_data VALUES ('2026-01-01T00:00:00.123Z', 1, 0.5)")
    with query_service(start_service, wet) as query:
        text = _run(query, "export", "--timestamp-unit", "ms").stdout
        table = pa.ipc.open_stream(
            _run(query, "export", "--timestamp-unit", "ms", "-o", "arrow").stdout_bytes
        ).read_all()
    assert text == "time,sensor_id,humidity\n2026-01-01T00:00:00.123Z,1,0.5\n"
    assert table.schema.field("time").type == pa.timestamp("ms", "UTC")
    assert table.to_pylist()[0]["humidity"] == 0.5


def test_a_measurement_that_is_not_declared(query: QueryService) -> None:
    """Status 2, with those that are; no file."""
    result = CliRunner().invoke(app, ["export", "--measurement", "humidity", "--endpoint", query.target])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must be among temperature, cpu" in result.stderr


@pytest.mark.usefixtures("many")
def test_a_service_that_goes_away_leaves_no_file(query: QueryService, tmp_path: Path) -> None:
    """Status 3; the message says how far it came; what was there before stays."""
    path = tmp_path / "readings.csv"
    path.write_text("before")
    command = [sys.executable, "-m", "sensorlog_cli", "export", "-f", str(path), "--endpoint", query.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: next(tmp_path.glob(".*.part")).stat().st_size > 0, deadline=30, what="a part of the file")
        query.process.kill()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "going on from ts" in said
    assert "complete up to ts" in said
    assert {each.name for each in tmp_path.iterdir() if each.name.startswith((".", "readings"))} == {"readings.csv"}
    assert path.read_text() == "before"


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("form", ["csv", "jsonl", "arrow"])
def test_memory_does_not_grow_with_the_export(query: QueryService, tmp_path: Path, form: str) -> None:
    """Of a hundred times as many readings by less than the 64 MB that they are."""
    few = _measured(query, form, tmp_path / "few", RESIDENT, "--to", str(SEED_TS + MANY // 100 // 100))
    assert _measured(query, form, tmp_path / "all", RESIDENT) - few < 24 * MEGABYTE


@pytest.mark.usefixtures("many")
def test_parquet_holds_no_more_than_row_groups(query: QueryService, tmp_path: Path) -> None:
    """One that is gathered and one that is encoded: less than the 64 MB of the export.

    Measured in Arrow's own pool, because its allocator keeps a hundred megabytes more, however much there is to write.
    """
    assert _measured(query, "parquet", tmp_path / "all", ARROW_POOL) < 3 * ROW_GROUP_BYTES
    metadata = pq.ParquetFile(tmp_path / "all").metadata
    assert metadata.num_rows == MANY
    assert metadata.num_row_groups >= 4


RESIDENT = "__import__('resource').getrusage(0).ru_maxrss * 1024"
ARROW_POOL = "__import__('pyarrow').default_memory_pool().max_memory()"


def _measured(query: QueryService, form: str, path: Path, peak: str, *arguments: str) -> int:
    """Return the most memory that an export took in a process of its own, in bytes, by the expression `peak`."""
    code = f"from sensorlog_cli.app import app; app(standalone_mode=False); print({peak})"
    command = ["export", "-o", form, "-f", str(path), "--endpoint", query.target, *arguments]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_year_is_drawn_in_one_call(query: QueryService, pipeline: Pipeline) -> None:
    """By averages, as many as there is room for dots."""
    pipeline.query(
        "INSERT INTO sensor_data SELECT to_timestamp(%s + n * 3600), 1, 20 + 10 * sin(n / 1000.0), NULL"
        " FROM generate_series(0, 8759) n",
        [SEED_TS],
    )
    before = query.process.metric("sensorlog_query_requests_total", {"method": "GetSensorAvgData"})
    arguments = ("plot", "--sensor", "1", "--measurement", "temperature", "--width", "100", "--height", "16")
    lines = _run(query, *arguments).stdout.splitlines()
    after = query.process.metric("sensorlog_query_requests_total", {"method": "GetSensorAvgData"})
    assert after - before == 1
    assert lines[0] == "temperature"
    assert 29.9 < float(lines[1].split()[0]) <= 30
    assert 10 <= float(lines[14].split()[0]) < 10.1
    assert lines[16].split() == ["2022-03-04T15:55:07Z", "2023-03-04T14:55:08Z"]
    assert all(any(ord(row[column]) > 0x2800 for row in lines[1:15]) for column in range(9, 99))


def test_a_plot_of_nothing_says_so(query: QueryService, pipeline: Pipeline) -> None:
    """Where there are no readings, and where the measurement has no values."""
    assert _run(query, "plot", "--measurement", "cpu").stderr == "nothing there\n"
    store(pipeline, [(SEED_TS, 1, (30.0, None))])
    assert _run(query, "plot", "--measurement", "cpu").stderr == "no values of cpu there, but of temperature\n"


def test_over_tls(start_service: Any, pipeline: Pipeline, tmp_path: Path) -> None:
    """With the authority that signed the service; not without."""
    store(pipeline, READINGS[:5])
    authority = Authority()
    issued = authority.issue("plant-query.sensors.svc")
    secret = MountedSecret(tmp_path / "tls", tls_crt=issued.certificate, tls_key=issued.key)
    ca_file, token_file = tmp_path / "ca.pem", tmp_path / "token"
    ca_file.write_bytes(authority.certificate)
    token_file.write_text("a token that nobody asks for\n")
    settings: dict[str, Any] = {"SENSORLOG_TLS_DIR": str(secret.directory)}
    with query_service(start_service, pipeline, **settings) as query:
        for known in (("--ca-file", str(ca_file)), ("--ca-file", str(ca_file), "--token-file", str(token_file))):
            assert len(_from_jsonl(_run(query, "export", "-o", "jsonl", *known).stdout_bytes)) == 5
        named = ("--ca-file", str(ca_file), "--server-name")
        assert _run(query, "latest", *named, "plant-query.sensors.svc").exit_code == 0
        for stranger in ((), ("--tls",), (*named, "other.sensors.svc")):
            result = CliRunner().invoke(app, ["latest", "--endpoint", query.target, *stranger])
            assert (result.exit_code, result.stdout) == (3, "")
