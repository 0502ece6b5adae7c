"""What sends canaries, outside an operator."""

from collections.abc import Iterator
from contextlib import contextmanager

from kubernetes import client

from sensorlog_operator.canary_probe import Probe
from sensorlog_operator.canary_tokens import Tokens
from sensorlog_operator.kube import Kube

KEY = "test/plant"


@contextmanager
def a_probe(tokens: Tokens | None = None) -> Iterator[Probe]:
    """Yield one, and let go of what it opened for `KEY`; without `tokens` for services that ask for none."""
    nowhere = Kube(client.ApiClient(client.Configuration(host="https://127.0.0.1:1")))
    probe = Probe(tokens or Tokens(nowhere, "sensorlog", ""))
    yield probe
    probe.release(KEY)
