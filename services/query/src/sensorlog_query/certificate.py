"""The server's certificate from a mounted Secret, renewed without a restart.

The kubelet swaps a mounted Secret's files under the process. gRPC asks for the certificate at each handshake, and the
files are looked at every few seconds besides, so that metrics tell of a bad or an old one that nobody connects to.
A new pair is taken only where it fits together; else the one in use stays.
"""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sensorlog.credentials import CredentialsError
from sensorlog_query.metrics import CertificateMetrics

log = structlog.get_logger()

CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"
"""The keys of a Secret of type kubernetes.io/tls, and the one that cert-manager adds."""

LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain with its key, and the authority of clients where they must show a certificate (all PEM)."""

    certificate: bytes
    key: bytes
    authority: bytes | None

    def check(self) -> datetime:
        """Return when the certificate expires; CredentialsError where the parts do not fit together."""
        leaf = _certificates(self.certificate, CERTIFICATE)[0]
        if self.authority is not None:
            _certificates(self.authority, AUTHORITY)
        try:
            key = load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise CredentialsError(f"{KEY} holds no private key in PEM without a password") from e
        if key.public_key() != leaf.public_key():
            raise CredentialsError(f"{KEY} is not the key of the certificate in {CERTIFICATE}")
        return leaf.not_valid_after_utc

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return the same as gRPC takes it."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.authority)


def _certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as e:
        raise CredentialsError(f"{name} holds no certificate in PEM") from e


def read_pair(directory: Path, *, require_client: bool) -> Pair:
    """Return what a mounted Secret holds; CredentialsError names the file that cannot be read."""
    # The kubelet's link to one version of all files: a swap between two reads would mix old and new.
    version = directory / "..data"
    folder = version.resolve() if version.exists() else directory
    authority = _read(folder / AUTHORITY) if require_client else None
    return Pair(_read(folder / CERTIFICATE), _read(folder / KEY), authority)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise CredentialsError(f"cannot read {path}: {e.strerror}; is the Secret's key {path.name!r} there?") from e


class ServerCertificate:
    """What the server shows of itself, as the files of `directory` say now.

    With `require_client` a client must show a certificate that ca.crt signed. CredentialsError where the first pair
    cannot be used: then there is nothing to keep.
    """

    def __init__(self, directory: Path, *, require_client: bool, metrics: CertificateMetrics) -> None:
        self._directory = directory
        self._require_client = require_client
        self._metrics = metrics
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="certificate", daemon=True)
        self._problem: str | None = None
        self._pair: Pair
        self._use(self._read())
        self._fetched = self._pair

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a port that follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._pair.configuration(),
            self._fetch,  # type: ignore[arg-type]  # gRPC documents None for "no change"; the stubs do not know
            require_client_authentication=self._require_client,
        )

    def start(self) -> None:
        """Look at the files until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self) -> Pair:
        """Return the pair to use now: the files' where they are good, else the one before."""
        with self._lock:
            try:
                pair = self._read()
                if pair != self._pair:
                    self._use(pair)
                    self._metrics.reloads.inc()
                self._tell(None)
            except CredentialsError as e:
                self._tell(str(e))
            return self._pair

    def _read(self) -> Pair:
        return read_pair(self._directory, require_client=self._require_client)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what a handshake takes from now on; None where that is what the one before took."""
        pair = self.refresh()
        if pair == self._fetched:
            return None
        self._fetched = pair
        return pair.configuration()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.refresh()

    def _use(self, pair: Pair) -> None:
        expires = pair.check()
        self._pair = pair
        self._metrics.expires.set(expires.timestamp())
        log.info("certificate in use", expires=expires.isoformat(), expired=expires < datetime.now(UTC))

    def _tell(self, problem: str | None) -> None:
        self._metrics.refused.set(problem is not None)
        if problem not in (self._problem, None):
            log.error("the new certificate cannot be used; the one before stays", problem=problem)
        self._problem = problem
