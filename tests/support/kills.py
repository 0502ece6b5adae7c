"""An operator that dies by SIGKILL right after a chosen change of the world, as when its node is lost.

It runs in a process of its own, and counts what it does at the borders: calls to the API server, to Kafka's admin
interface, statements and commits of the database. The operator itself knows nothing of it.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import psycopg
from kubernetes import client, config

from sensorlog_operator import schema, topics
from sensorlog_operator.__main__ import load_claims
from sensorlog_operator.claims import Claims
from sensorlog_operator.events import Events
from sensorlog_operator.kube import Kube
from sensorlog_operator.reconcile import Reconciler
from sensorlog_operator.settings import Settings

RECONCILE_SECONDS = 60
READS = ("SELECT", "WITH")
CHANGING_FUNCTIONS = ("create_hypertable", "set_chunk_time_interval")
LOCK = "pg_advisory_xact_lock"
"""What each of the operator's transactions begins with."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


def reconcile(kubeconfig: str, key: str, *, kill_after: int = 0) -> int:
    """Reconcile a pipeline once in a process that dies after so many changes, 0 for never.

    Return the exit code: -9 when it died, 0 when all is done, 3 when it should come again.
    """
    process = _processes.Process(target=_reconcile, args=(kubeconfig, key, kill_after))
    process.start()
    process.join(RECONCILE_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"a reconcile of {key} took longer than {RECONCILE_SECONDS} s")
    return process.exitcode


def _reconcile(kubeconfig: str, key: str, kill_after: int) -> None:
    if kill_after:
        _die_after(kill_after)
    configuration = client.Configuration()
    config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    kube, claims = Kube(client.ApiClient(configuration)), Claims()
    load_claims(kube, claims, ())
    settings = Settings(ingest_image="sensorlog/ingest:test", query_image="sensorlog/query:test")
    again = Reconciler(kube, settings, claims, Events(kube, "test"), requeue=lambda _: None).reconcile(key)
    os._exit(3 if again else 0)


def _die_after(changes: int) -> None:
    """Count changes from now on, and die right after the last one."""
    left = changes
    in_transaction = 0

    def statement_counts(_connection: Any, statement: Any, *_: Any) -> bool:
        """Count the first change of a transaction: a kill behind any other is rolled back just the same."""
        nonlocal in_transaction
        in_transaction = 0 if LOCK in _text(statement) else in_transaction + _changes(statement)
        return in_transaction == 1 and _changes(statement)

    def changed() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    _wrap(Kube, "_call", changed, lambda _self, method, path, *_: method != "GET" and not path.endswith("/events"))
    _wrap(topics, "_execute", changed, lambda *_: True)
    _wrap(topics, "delete", changed, lambda *_: True)
    _wrap(psycopg.Connection, "execute", changed, statement_counts)
    _wrap(schema, "apply", changed, lambda *arguments: bool(arguments[2]))


def _wrap(owner: Any, name: str, changed: Callable[[], None], counts: Callable[..., bool]) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        if counts(*arguments):
            changed()
        return result

    setattr(owner, name, wrapped)


def _text(statement: Any) -> str:
    return str(statement if isinstance(statement, str) else statement.as_string(None))


def _changes(statement: Any) -> bool:
    text = _text(statement)
    return not text.strip().upper().startswith(READS) or any(name in text for name in CHANGING_FUNCTIONS)
