"""The connection of another login: same server, same database, same parameters, other user and password.

Source: PostgreSQL documentation, "Connection Strings" of libpq.
"""

from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

IDENTITY = frozenset({"user", "password", "passfile", "sslcert", "sslkey", "sslpassword"})
"""What says who connects; all the rest says where and how."""


def with_login(uri: str, user: str, password: str) -> str:
    """Return `uri` for another login, always as postgresql://; psycopg.ProgrammingError where it is none.

    A uri of several hosts keeps them all, in their order.
    """
    parameters = {name: str(value) for name, value in conninfo_to_dict(uri).items() if name not in IDENTITY}
    hosts = parameters.pop("host", "").split(",")
    ports = parameters.pop("port", "").split(",")
    ports = ports if len(ports) == len(hosts) else ports * len(hosts)
    authority = ",".join(map(_address, hosts, ports))
    database = quote(parameters.pop("dbname", ""), safe="")
    query = urlencode(parameters, quote_via=quote)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{login}@{authority}/{database}{'?' if query else ''}{query}"


def password_of(uri: str) -> str:
    """Return the password in a uri, empty where it holds none; psycopg.ProgrammingError where it is no uri."""
    return str(conninfo_to_dict(uri).get("password") or "")


def _address(host: str, port: str) -> str:
    name = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{name}:{port}" if port else name
