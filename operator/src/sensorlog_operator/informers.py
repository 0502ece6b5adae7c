"""Copies of what the API server holds of one kind, kept up to date by a watch: client-go's informer, as far as needed.

An object is kept as JSON text, without the history in its managedFields: a tenth of the memory that dicts take, and
nobody can change what all share. A copy may be behind by as long as the API server needs to tell of a change; who is
about to change something looks for themselves.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from sensorlog_operator.errors import NeedsChangeError, PipelineError
from sensorlog_operator.kube import INSTANCE, ExpiredError, Kind, Kube, Object

WATCH_SECONDS = (240, 300)
"""How long a watch lasts before it is asked for anew, at least and at most: not all of them at the same time."""

RETRY_SECONDS = (1.0, 2.0)
ABSENT_SECONDS = 10.0
"""How long to wait for a kind that the cluster does not know, or that we may not watch."""

log = structlog.get_logger(__name__)


class Kept(NamedTuple):
    """A copy: the version of its object, and its text, empty where only metadata are watched."""

    version: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Watched:
    """What to keep copies of."""

    kind: Kind
    namespace: str | None = None
    """None for all."""
    label_selector: str = ""
    field_selector: str = ""
    metadata_only: bool = False
    """Whether only versions are of interest; then the API server sends nothing else."""
    by_instance: bool = False
    """Whether objects are looked for by the pipeline that their label names, not by their own name."""

    @property
    def query(self) -> dict[str, str]:
        """The selectors as the API spells them."""
        selectors = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: text for name, text in selectors.items() if text}

    def owner(self, metadata: Object) -> tuple[str, str]:
        """Return what an object is looked for by: namespace, and name of the pipeline or its own."""
        name = metadata["labels"][INSTANCE] if self.by_instance else metadata["name"]
        return metadata["namespace"], name


class Informer:
    """The copies of one kind. `heard` is called with the metadata of each object that changed; not of the first list.

    A stream that says nothing for `silence` seconds is opened anew. Safe to share between threads.
    """

    def __init__(self, kube: Kube, watched: Watched, silence: float, heard: Callable[[Object], None]) -> None:
        self._kube = kube
        self._watched = watched
        self._silence = silence
        self._heard = heard
        self._objects: dict[tuple[str, str], dict[str, Kept]] = {}
        self._same: dict[str, str] = {}
        self._version = ""
        self._current_at = -float("inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"informer-{watched.kind.plural}", daemon=True)

    def start(self) -> None:
        """Begin to list and watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ask for nothing more; the thread dies with the process."""
        self._stopping.set()

    @property
    def is_alive(self) -> bool:
        """Whether it still watches."""
        return self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the API server has said lately that there is nothing that it has not told."""
        return time.monotonic() - self._current_at < self._silence

    def find(self, namespace: str, owner: str) -> list[Object]:
        """Return the objects of an owner, as new dicts."""
        kept = self._objects.get((namespace, owner), {})
        return [json.loads(copy.text) for copy in list(kept.values())]

    def version(self, namespace: str, owner: str) -> int | None:
        """Return the version of an owner's only object, None where there is none."""
        kept = self._objects.get((namespace, owner))
        return next((copy.version for copy in list(kept.values())), None) if kept else None

    def note(self, body: Object) -> None:
        """Take an object as the API server answered it: what we wrote ourselves is known before a watch tells."""
        known = self._objects.get(self._watched.owner(body["metadata"]), {}).get(body["metadata"]["name"])
        if known is not None and known.version < _version(body):
            self._keep(body)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if pause := self._turn():
                self._current_at = 0.0
                self._stopping.wait(pause)

    def _turn(self) -> float:
        """List where nothing is known to go on from, and watch; return after how many seconds to come again."""
        kind, pause = self._watched.kind.plural, random.uniform(*RETRY_SECONDS)  # noqa: S311 -- spreads load
        try:
            if not self._version:
                self._list()
            self._follow()
        except ExpiredError as e:
            self._version = ""
            log.info("a watch begins anew", kind=kind, error=e.message)
            return pause
        except NeedsChangeError as e:
            self._version = ""
            log.debug("cannot be watched", kind=kind, error=e.message)
            return ABSENT_SECONDS
        except PipelineError as e:
            log.info("a watch broke", kind=kind, error=e.message)
            return pause
        except Exception:
            self._version = ""
            log.exception("watching failed: this is a bug of the operator", kind=kind)
            return pause
        return 0.0

    def _list(self) -> None:
        """Take over what there is; what is there no more goes."""
        known = {owner: dict(kept) for owner, kept in self._objects.items()}
        is_first = self._current_at < 0
        for page in self._kube.pages(self._watched.kind, self._watched.namespace, self._watched.query, self._form):
            self._same = {"apiVersion": page["apiVersion"], "kind": page["kind"].removesuffix("List")}
            for body in page["items"] or ():  # the API server writes no items of metadata as null
                before = known.get(self._watched.owner(body["metadata"]), {}).pop(body["metadata"]["name"], None)
                if before is None or before.version < _version(body):
                    self._keep(body)
                    if not is_first:
                        self._heard(body["metadata"])
            version = page["metadata"]["resourceVersion"]
        for (namespace, owner), gone in known.items():
            for name in gone:
                self._forget({"namespace": namespace, "name": name, "labels": {INSTANCE: owner}})
        self._version, self._current_at = version, time.monotonic()

    def _follow(self) -> None:
        query = {
            **self._watched.query,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311 -- spreads load
        }
        for event in self._events(query):
            if self._stopping.is_set():
                return
            body = event["object"]
            if event["type"] == "DELETED":
                self._forget(body["metadata"])
            elif event["type"] != "BOOKMARK":
                self._keep(body)
                self._heard(body["metadata"])
            self._version, self._current_at = body["metadata"]["resourceVersion"], time.monotonic()

    def _events(self, query: dict[str, str]) -> Iterator[Object]:
        kind, namespace = self._watched.kind, self._watched.namespace
        with self._kube.watch(kind, namespace, query, self._form, silence=self._silence) as events:
            self._current_at = time.monotonic()
            yield from events

    @property
    def _form(self) -> str:
        return "PartialObjectMetadata" if self._watched.metadata_only else ""

    def _keep(self, body: Object) -> None:
        metadata = body["metadata"]
        metadata.pop("managedFields", None)
        # The items of a list do not repeat what they are.
        text = b"" if self._watched.metadata_only else json.dumps(self._same | body, separators=(",", ":")).encode()
        kept = self._objects.setdefault(self._watched.owner(metadata), {})
        kept[metadata["name"]] = Kept(_version(body), text)

    def _forget(self, metadata: Object) -> None:
        owner = self._watched.owner(metadata)
        kept = self._objects.get(owner, {})
        kept.pop(metadata["name"], None)
        if not kept:
            self._objects.pop(owner, None)
        self._heard(metadata)


def _version(body: Any) -> int:
    """Return a resource version as a number: the API server's are revisions of etcd.

    Source: KEP-5504, "Comparable Resource Version".
    """
    return int(body["metadata"]["resourceVersion"])
