"""Pipelines in an API server whose database roles are watched: who provisions them, and what became of it."""

import base64
import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorlog_operator.connection_uri import with_login
from sensorlog_operator.manifests import DATABASE_LOGIN
from sensorlog_operator.models import ROTATE_CREDENTIALS
from support.apiserver import ApiServer, Object
from support.database import Database
from support.kafka import KafkaBroker
from support.operated import OperatedPipeline
from support.pods import Pods
from support.waiting import wait_for_value, wait_until

COMPONENTS = ("ingest", "query")
SECONDS = 60


@dataclass(frozen=True)
class Provisioner:
    """A user of the database as managed services have it: no superuser, but one that may create schemas and roles."""

    name: str
    password: str
    database: Database

    @property
    def uri(self) -> str:
        """How it connects."""
        return with_login(self.database.uri, self.name, self.password)


@dataclass
class Plant:
    """One pipeline with its pods and its rows in the database."""

    pipeline: OperatedPipeline
    pods: Pods
    admin: Provisioner

    @property
    def server(self) -> ApiServer:
        """The API server."""
        return self.pipeline.server

    @property
    def schema(self) -> str:
        """The pipeline's schema."""
        return self.pipeline.schema

    def login(self, component: str) -> str | None:
        """Return the role that the pod template of a component names."""
        deployment = self.pipeline.deployment(component)
        annotations = deployment["spec"]["template"]["metadata"]["annotations"] if deployment else {}
        return annotations.get(DATABASE_LOGIN)

    def wait_login(self, component: str, slot: str) -> None:
        """Wait until a component's template names the login that ends in `slot`."""
        wait_until(
            lambda: (self.login(component), self.pipeline.get().get("status")),
            lambda seen: str(seen[0]).endswith(f"_{slot}"),
            deadline=SECONDS,
            what=f"the template of {component} to name login {slot}",
        )

    def let_in(self) -> set[str]:
        """Return the endings of those of the pipeline's roles that may log in, such as writer_a."""
        found = self.admin.database.execute(
            "SELECT rolname FROM pg_roles WHERE rolcanlogin AND shobj_description(oid, 'pg_authid')::jsonb"
            " -> 'sensorlog.dev/role' ->> 'schema' = %s",
            [self.schema],
        )
        return {"_".join(str(name).split("_")[-2:]) for (name,) in found}

    def wait_let_in(self, *endings: str) -> None:
        """Wait until just these may log in."""
        wait_for_value(self.let_in, set(endings), deadline=SECONDS, what="the roles that may log in")

    def stay_let_in(self, endings: set[str]) -> None:
        """See that these may log in still when the operator has come by twice."""
        path = f"/api/v1/namespaces/{self.pipeline.namespace}/services/{self.pipeline.name}-query"
        for _ in range(2):
            self.server.merge(path, {"spec": {"selector": {"touched": "by-hand"}}})  # it repairs that
            wait_until(
                lambda: "touched" not in self.server.call("GET", path)["spec"]["selector"],
                deadline=SECONDS,
                what="the operator to come by",
            )
            assert endings <= self.let_in()

    def secret(self, component: str) -> Object | None:
        """Return the Secret of a component's logins."""
        return self.server.find(f"{self._secrets}/{self.pipeline.name}-{component}-database")

    def uris(self, component: str) -> dict[str, str]:
        """Return what the Secret of a component's logins holds."""
        data = (self.secret(component) or {}).get("data") or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def put_uri(self, uri: str, name: str = "timescaledb") -> None:
        """Create or change a Secret that the resource names."""
        data = {"data": {"uri": base64.b64encode(uri.encode()).decode()}}
        if self.server.find(f"{self._secrets}/{name}"):
            self.server.merge(f"{self._secrets}/{name}", data)
        else:
            self.server.call("POST", self._secrets, {"metadata": {"name": name}, **data})

    def rotate(self, text: str) -> None:
        """Ask for new passwords."""
        self.server.merge(self.pipeline.path, {"metadata": {"annotations": {ROTATE_CREDENTIALS: text}}})

    def replace_pods(self) -> None:
        """Bring both components to their templates."""
        for component in COMPONENTS:
            self.pods.replace(component)

    def status(self) -> Object:
        """Return status.credentials."""
        found: Object = self.pipeline.get().get("status", {}).get("credentials", {})
        return found

    def stored(self) -> tuple[int, int]:
        """Return how many readings are stored, and how many distinct ones."""
        statement = f"SELECT count(*), count(DISTINCT (time, sensor_id)) FROM {self.schema}.sensor_data"
        ((total, distinct),) = self.admin.database.execute(statement)
        return int(total), int(distinct)

    @property
    def _secrets(self) -> str:
        return f"/api/v1/namespaces/{self.pipeline.namespace}/secrets"


@contextlib.contextmanager
def provisioner(database: Database) -> Iterator[Provisioner]:
    """Yield a user who may provision; what it made goes with it."""
    user = Provisioner(f"provisioner_{secrets.token_hex(4)}", f"pw-{secrets.token_hex(12)}", database)
    database.execute(f"CREATE ROLE {user.name} LOGIN CREATEROLE PASSWORD '{user.password}'")
    database.execute(f"GRANT CREATE ON DATABASE sensorlog TO {user.name}")
    yield user
    made = "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
    ours = f"{made} JOIN pg_roles u ON u.oid = m.member WHERE u.rolname = %s AND r.rolname LIKE 'slp%%'"
    for (role,) in [*database.execute(ours, [user.name]), (user.name,)]:
        database.execute(f'DROP OWNED BY "{role}" CASCADE')
        database.execute(f'DROP ROLE "{role}"')


MakePlant = Callable[..., Plant]
"""Makes a pipeline in a namespace of its own; its keywords are fields of spec.timescale."""


@contextlib.contextmanager
def plants(server: ApiServer, broker: KafkaBroker, admin: Provisioner, directory: Path) -> Iterator[MakePlant]:
    """Yield a factory of pipelines; they are deleted afterwards."""
    made: list[Plant] = []

    def make(**timescale: Any) -> Plant:
        namespace = f"plants-{secrets.token_hex(3)}"
        server.account(namespace, "somebody")
        pipeline = OperatedPipeline(server, broker, namespace)
        made.append(Plant(pipeline, Pods(pipeline, directory / namespace), admin))
        made[-1].put_uri(admin.uri)
        pipeline.create(timescale=timescale)
        return made[-1]

    yield make
    for plant in made:
        plant.pods.clean_up()
        plant.pipeline.delete()
