"""The Secrets of a pipeline: what is asked of them, and which of their changes need new pods."""

import base64
from typing import Any, cast

import pytest

from sensorlog_operator.errors import NeedsChangeError, Reason
from sensorlog_operator.kube import Kube
from sensorlog_operator.secrets import Credentials, projections
from support.resources import a_pipeline

TLS = {"secretRef": {"name": "plant-tls"}, "clientAuth": "Require"}


class Secrets:
    """Secrets by name, as the API server would hand them out."""

    def __init__(self, **secrets: dict[str, str]) -> None:
        self._secrets = {"timescaledb": {"uri": "postgresql://u:p@db/x"}, **secrets}

    def get(self, _kind: Any, _namespace: str, name: str) -> dict[str, Any] | None:
        """Return a Secret, None where there is none of this name."""
        data = self._secrets.get(name)
        return data and {"data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


def credentials(tls: dict[str, str] | None) -> Credentials:
    """Return the credentials of a pipeline whose clients must show certificates, with this Secret for it."""
    secrets = Secrets(**({"plant-tls": tls} if tls is not None else {}))
    return Credentials(cast("Kube", secrets), a_pipeline(query={"tls": TLS}))


GOOD = {"tls.crt": "c", "tls.key": "k", "ca.crt": "a"}


def test_a_certificate_that_is_there_is_no_problem() -> None:
    """All three keys have values."""
    credentials(GOOD).check_tls()


def test_a_missing_certificate_is_told_by_field_and_name() -> None:
    """So that one knows what to create."""
    with pytest.raises(NeedsChangeError, match=r"default/plant-tls named by spec\.query\.tls\.secretRef") as caught:
        credentials(None).check_tls()
    assert caught.value.reason is Reason.SECRET_NOT_FOUND


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_certificate_without_a_key_is_told(key: str) -> None:
    """Each of the three is needed."""
    with pytest.raises(NeedsChangeError, match=key) as caught:
        credentials({name: value for name, value in GOOD.items() if name != key}).check_tls()
    assert caught.value.reason is Reason.SECRET_KEY_MISSING


def test_a_rotated_certificate_needs_no_new_pods() -> None:
    """The digest in the pod template is of what services read when they connect, and of nothing else."""
    digests = {credentials(tls).digest("query", "uri") for tls in (GOOD, {**GOOD, "tls.crt": "d"}, None)}
    assert len(digests) == 1


def test_the_certificate_is_among_the_secrets_to_watch() -> None:
    """A Secret that appears is noticed at once."""
    assert "plant-tls" in {p.secret for p in projections(a_pipeline(query={"tls": TLS}))}


def test_what_canaries_are_looked_for_with_is_read_where_the_resource_names_it() -> None:
    """It is noticed when it changes, and no pod is made anew for it."""
    pipeline = a_pipeline(query={"tls": TLS}, canary={"clientCertificateSecretRef": {"name": "plant-canary"}})
    assert "plant-canary" in {p.secret for p in projections(pipeline)}
    found = [Secrets(**{"plant-tls": GOOD, "plant-canary": {"tls.crt": "c", "tls.key": key}}) for key in ("k", "l")]
    before, after = (Credentials(cast("Kube", secrets), pipeline) for secrets in found)
    assert (before.canary_certificate(), after.canary_certificate()) == ((b"c", b"k"), (b"c", b"l"))
    assert before.digest("query", "uri") == after.digest("query", "uri")
    assert credentials(GOOD).canary_certificate() is None
    without = Credentials(cast("Kube", Secrets(**{"plant-tls": GOOD})), pipeline)
    with pytest.raises(NeedsChangeError, match=r"plant-canary named by spec\.canary\.clientCertificateSecretRef"):
        without.canary_certificate()
