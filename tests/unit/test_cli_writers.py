"""Exported blocks as files: what is written is read back by other programs' readers."""

import contextlib
import csv
import gc
import json
import os
import stat
import sys
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sensorlog.client import Block
from sensorlog.client.blocks import empty
from sensorlog.timestamps import TimestampUnit
from sensorlog_cli import writers
from sensorlog_cli.destination import destination
from sensorlog_cli.errors import CliError
from sensorlog_cli.export_progress import ExportProgress, fraction
from sensorlog_cli.writers import Format, writer_of

NAN = float("nan")
BLOCKS = [
    Block(
        np.array([1646409307, 1646409308]),
        np.array([1, 2**63 - 1]),
        {"temperature": np.array([30.1, NAN]), "cpu": np.array([NAN, -5e-324])},
        "s",
    ),
    Block(np.array([1646409309]), np.array([-3]), {"temperature": np.array([1 / 3]), "cpu": np.array([0.0])}, "s"),
]
ROWS = [
    (1646409307, 1, 30.1, None),
    (1646409308, 2**63 - 1, None, -5e-324),
    (1646409309, -3, 1 / 3, 0.0),
]


def _written(form: Format, blocks: list[Block]) -> bytes:
    sink = BytesIO()
    writer_of(form)(iter(blocks), sink)
    return sink.getvalue()


def test_csv_is_read_back_by_the_csv_module() -> None:
    """To the last bit; times are ISO 8601, NULL is empty."""
    header, *lines = csv.reader(StringIO(_written(Format.CSV, BLOCKS).decode()))
    assert header == ["time", "sensor_id", "temperature", "cpu"]
    assert lines[0] == ["2022-03-04T15:55:07Z", "1", "30.1", ""]
    assert [(int(s), *(float(v) if v else None for v in values)) for _, s, *values in lines] == [r[1:] for r in ROWS]


@pytest.mark.parametrize(
    ("unit", "shown"),
    [
        ("ms", "1970-01-20T01:20:09.307Z"),
        ("us", "1970-01-01T00:27:26.409307Z"),
        ("ns", "1970-01-01T00:00:01.646409307Z"),
    ],
)
def test_csv_times_have_the_digits_of_the_unit(unit: TimestampUnit, shown: str) -> None:
    """No more and no less."""
    block = Block(np.array([1646409307]), np.array([1]), {}, unit)
    assert shown in _written(Format.CSV, [block]).decode()


def test_jsonl_is_what_publish_takes() -> None:
    """A NULL measurement is left out."""
    rows = [json.loads(line) for line in _written(Format.JSONL, BLOCKS).splitlines()]
    assert [(r["ts"], r["sensor_id"], r.get("temperature"), r.get("cpu")) for r in rows] == ROWS
    assert set(rows[0]) == {"ts", "sensor_id", "temperature"}


def _arrow_rows(table: pa.Table) -> list[tuple[object, ...]]:
    return [(int(r["time"].timestamp()), r["sensor_id"], r["temperature"], r["cpu"]) for r in table.to_pylist()]


def test_parquet_and_arrow_are_read_back_by_pyarrow() -> None:
    """With types, and null where it is NULL."""
    parquet = pq.read_table(BytesIO(_written(Format.PARQUET, BLOCKS)))
    stream = pa.ipc.open_stream(_written(Format.ARROW, BLOCKS))
    assert stream.schema.field("time").type == pa.timestamp("s", "UTC")
    assert parquet.schema.field("time").type == pa.timestamp("ms", "UTC")
    assert _arrow_rows(parquet) == _arrow_rows(stream.read_all()) == ROWS


@pytest.mark.parametrize("form", Format)
def test_no_readings_are_a_whole_file(form: Format) -> None:
    """With the columns, as far as the format has any."""
    data = _written(form, [empty(["cpu"], "s")])
    if form is Format.CSV:
        assert data == b"time,sensor_id,cpu\n"
    elif form is Format.JSONL:
        assert data == b""
    else:
        table = pq.read_table(BytesIO(data)) if form is Format.PARQUET else pa.ipc.open_stream(data).read_all()
        assert (table.num_rows, table.column_names) == (0, ["time", "sensor_id", "cpu"])


def test_parquet_is_written_in_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as soon as it is large enough, so that memory is bounded."""
    monkeypatch.setattr(writers, "ROW_GROUP_BYTES", 60)
    file = pq.ParquetFile(BytesIO(_written(Format.PARQUET, BLOCKS * 3)))
    assert file.metadata.num_rows == 9
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 3, 3, 1]


def _breaking() -> Iterator[Block]:
    yield from BLOCKS
    raise ConnectionError("cut")


def _export(form: Format, path: str) -> None:
    with destination(path) as sink:
        writer_of(form)(_breaking(), sink)


@pytest.mark.parametrize("form", Format)
def test_a_broken_export_leaves_no_file(tmp_path: Path, form: Format) -> None:
    """Neither the new one nor a part of it; the one before stays as it was."""
    path = tmp_path / "readings"
    path.write_bytes(b"before")
    with pytest.raises(ConnectionError):
        _export(form, str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("form", [Format.PARQUET, Format.ARROW])
def test_a_broken_export_does_not_look_whole_on_standard_output(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    """A writer of pyarrow writes the end of its file when it is collected."""
    monkeypatch.setattr(writers, "ROW_GROUP_BYTES", 60)  # the first is written when the export breaks
    with contextlib.suppress(ConnectionError):
        _export(form, "-")
    gc.collect()
    sys.stdout.flush()
    data = capfdbinary.readouterr().out
    assert data
    if form is Format.PARQUET:
        with pytest.raises(pa.ArrowInvalid):
            pq.read_table(BytesIO(data))
    else:  # the end of a stream is eight bytes
        assert not data.endswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")


def test_a_file_has_the_rights_that_others_have(tmp_path: Path) -> None:
    """Those of the umask, as if it had been opened plainly."""
    path = tmp_path / "readings.csv"
    with destination(str(path)) as sink:
        sink.write(b"x")
        assert not path.exists()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert path.read_bytes() == b"x"


def test_a_device_is_written_to_and_not_replaced() -> None:
    """As root, a rename would take its place."""
    with destination("/dev/null") as sink:
        sink.write(b"x")
    assert Path("/dev/null").is_char_device()


def test_a_folder_that_is_not_there_is_named() -> None:
    """With what was asked for."""
    with pytest.raises(CliError, match=r"cannot write /nowhere/x.csv: No such file"), destination("/nowhere/x.csv"):
        pass


@pytest.mark.parametrize(("ts", "expected"), [(0, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (99, 1.0)])
def test_position_in_the_range(ts: int, expected: float) -> None:
    """From 0 to 1; readings that came after the end was asked for change nothing."""
    assert fraction(ts, 10, 20) == expected
    assert fraction(ts, 5, 5) == (1.0 if ts > 5 else 0.0)


def test_progress_is_shown_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings so far, how many a second, and where in the range."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    shown = _progress()
    assert shown == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "3 readings" in said.err
    assert "/s" in said.err
    assert "50%" in said.err
    assert "at 2022-03-04T15:55:09Z" in said.err


def test_progress_is_not_shown_to_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error stays empty where nobody looks."""
    assert _progress() == 3
    assert capsys.readouterr().err == ""


def _progress() -> int:
    with ExportProgress(1646409307, 1646409311) as progress:
        assert sum(len(block) for block in progress.following(BLOCKS)) == 3
        return progress.rows
