"""What applying a resource would do, without applying it; asked over HTTP at a port of the loopback interface.

Whoever asks makes the operator look at brokers and a database with the Secrets of the resource's namespace. The port
is therefore bound to 127.0.0.1 of the pod: it is reached by `kubectl port-forward` alone, which takes the right to
`create` `pods/portforward` in the operator's own namespace. People without it set spec.approval to Manual, and see the
same plan in status before anything is done.
"""

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

import structlog

from sensorlog.http_port import HttpPort
from sensorlog_operator.errors import NeedsChangeError, PipelineError
from sensorlog_operator.gate import Decision
from sensorlog_operator.report import Report

ADDRESS = "127.0.0.1"
PATH = "/plan"
MAX_BODY_BYTES = 1_500_000
"""An object in etcd is not larger."""

AT_ONCE = 2
READ_SECONDS = 10

Plan = Callable[[dict[str, Any]], dict[str, Any]]

log = structlog.get_logger(__name__)


def document(decision: Decision, report: Report) -> dict[str, Any]:
    """Return the answer: every action with why it is planned and whether it waits, and what could not be looked at."""
    asking = decision.asking
    actions = [
        {**entry.to_status(), "nature": entry.nature.value, "needsApproval": entry in asking}
        for entry in decision.entries
    ]
    problems = {condition.message for condition in report.conditions.values() if condition.status is False}
    return {"hash": decision.hash, "actions": actions, "problems": sorted(problems)}


class PreviewServer(HttpPort):
    """Answers `POST /plan` with the JSON of a resource, as a dry run of the API server returned it."""

    def __init__(self, port: int, plan: Plan) -> None:
        super().__init__(ADDRESS, port, _handler(plan), "preview")


def _handler(plan: Plan) -> type[BaseHTTPRequestHandler]:
    free = threading.BoundedSemaphore(AT_ONCE)

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_SECONDS

        def do_POST(self) -> None:
            if self.path != PATH:
                self._answer(HTTPStatus.NOT_FOUND, {"message": f"not here: try POST {PATH}"})
                return
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 < length <= MAX_BODY_BYTES:
                self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"message": "the body must be one resource"})
                return
            text = self.rfile.read(length)
            with free:
                self._answer(*_planned(plan, text))

        def _answer(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing: who asks is told."""

    return Handler


def _planned(plan: Plan, text: bytes) -> tuple[HTTPStatus, dict[str, Any]]:
    try:
        return HTTPStatus.OK, plan(json.loads(text))
    except NeedsChangeError as e:
        return HTTPStatus.UNPROCESSABLE_ENTITY, {"message": e.message}
    except PipelineError as e:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"message": e.message}
    except (ValueError, KeyError, TypeError):
        return HTTPStatus.BAD_REQUEST, {"message": "the body is no SensorLogPipeline as the API server returns it"}
    except Exception:
        log.exception("a plan failed: this is a bug of the operator")
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"message": "a bug of the operator; its log has the traceback"}
