"""The two questions to the Kubernetes API server: whose a token is, and whether they may read this pipeline.

Plain HTTPS calls of the standard library: they are two small POSTs every few seconds, for which the Kubernetes client
package, with its hundreds of generated models, would double the image. A connection each, so that a rotated token or
authority is in use at once. Sources: Kubernetes API, TokenReview (authentication.k8s.io/v1) and SubjectAccessReview
(authorization.k8s.io/v1).
"""

import http.client
import json
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from sensorlog_query.errors import UnavailableError

log = structlog.get_logger()

TIMEOUT_SECONDS = 3.0
"""Between two packets of the API server; a caller waits no longer for one that hangs."""

MAX_REPLY_BYTES = 1024 * 1024

AWAY = "the Kubernetes API server, which checks tokens, is not available; try again"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """What a caller must be allowed: `get` on a subresource of one pipeline."""

    namespace: str
    name: str
    subresource: str = "data"

    def attributes(self) -> Object:
        """Return it as a SubjectAccessReview names it."""
        return {
            "group": "sensorlog.dev",
            "resource": "sensorlogpipelines",
            "subresource": self.subresource,
            "verb": "get",
            "namespace": self.namespace,
            "name": self.name,
        }


class ApiServer:
    """The API server as the pod's service account sees it. Whatever goes wrong is an UnavailableError."""

    def __init__(self, url: str, directory: Path) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"{url} is no https address")
        self._address = (parts.hostname, parts.port or 443)
        self._directory = directory

    def user_of(self, token: str, audience: str) -> Object | None:
        """Return the user (username, uid, groups, extra) whose token this is; None where it does not hold here.

        The audience is looked for in the answer: an authenticator that knows of none does not name it.
        """
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        status = self._review("/apis/authentication.k8s.io/v1/tokenreviews", review)
        if status.get("authenticated") is True and audience in (status.get("audiences") or ()):
            user: Object = status["user"]
            return user
        return None

    def may_read(self, user: Object, resource: Resource) -> bool:
        """Return whether the cluster's authorizers let `user` read the data of `resource`."""
        spec = {
            "user": user.get("username", ""),
            "uid": user.get("uid", ""),
            "groups": user.get("groups") or [],
            "extra": user.get("extra") or {},
            "resourceAttributes": resource.attributes(),
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status = self._review("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return status.get("allowed") is True and status.get("denied") is not True

    def _review(self, path: str, review: Object) -> Object:
        try:
            code, body = self._post(path, json.dumps(review))
            answer: Object = json.loads(body)
            if code != HTTPStatus.CREATED:
                raise UnavailableError(self._refused(path, code, answer))
            status: Object = answer["status"]
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as e:
            log.warning("the API server does not answer", path=path, error=type(e).__name__, detail=str(e))
            raise UnavailableError(AWAY) from e
        return status

    @staticmethod
    def _refused(path: str, code: int, answer: Object) -> str:
        log.error("the API server refuses to review", path=path, status=code, detail=answer.get("message"))
        return AWAY

    def _post(self, path: str, body: str) -> tuple[int, bytes]:
        own_token = (self._directory / "token").read_text(encoding="ascii").strip()
        trusted = ssl.create_default_context(cafile=self._directory / "ca.crt")
        connection = http.client.HTTPSConnection(*self._address, timeout=TIMEOUT_SECONDS, context=trusted)
        headers = {"Authorization": f"Bearer {own_token}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read(MAX_REPLY_BYTES)
        finally:
            connection.close()
