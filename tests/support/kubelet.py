"""What a cluster does for Deployments, done by a thread: it says of each that its pods are ready. No pod exists."""

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import urllib3

from support.apiserver import ADMIN_TOKEN, ApiServer, Object

DEPLOYMENTS = "/apis/apps/v1/deployments"
WATCH_SECONDS = 300
PATCHES = 4
"""Deployments whose status is written at the same time."""

HEADERS = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


class Kubelet:
    """Answers every change of a Deployment with a status in which all of its pods are ready."""

    def __init__(self, server: ApiServer) -> None:
        self._http = urllib3.PoolManager(
            maxsize=PATCHES + 1, ca_cert_data=server.authority.certificate.decode(), assert_hostname=False
        )
        self._url = server.url
        self._pool = ThreadPoolExecutor(PATCHES)
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping = True
        self._pool.shutdown(cancel_futures=True)

    def _watch(self) -> None:
        while not self._stopping:
            query = {"watch": "true", "timeoutSeconds": str(WATCH_SECONDS)}
            stream = self._http.request(
                "GET", self._url + DEPLOYMENTS, fields=query, headers=HEADERS, preload_content=False, timeout=None
            )
            with contextlib.suppress(urllib3.exceptions.HTTPError):  # the API server goes first
                for line in _lines(stream.stream()):
                    self._heard(json.loads(line))

    def _heard(self, event: Object) -> None:
        deployment, status = event["object"], event["object"].get("status", {})
        is_behind = status.get("observedGeneration") != deployment["metadata"]["generation"]
        if event["type"] in ("ADDED", "MODIFIED") and is_behind and not self._stopping:
            self._pool.submit(self._make_ready, deployment)

    def _make_ready(self, deployment: Object) -> None:
        metadata, wanted = deployment["metadata"], deployment["spec"].get("replicas", 1)
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        status = {"observedGeneration": metadata["generation"], **dict.fromkeys(counts, wanted)}
        path = f"/apis/apps/v1/namespaces/{metadata['namespace']}/deployments/{metadata['name']}/status"
        self._http.request(
            "PATCH",
            self._url + path,
            body=json.dumps({"status": status}),
            headers={**HEADERS, "Content-Type": "application/merge-patch+json"},
        )


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    pending = b""
    for part in parts:
        *lines, pending = (pending + part).split(b"\n")
        yield from lines
