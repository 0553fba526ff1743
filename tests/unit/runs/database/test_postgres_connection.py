"""How a team's database is connected to: what PostgreSQL itself does is held by tests/cluster."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from conjure.runs.database.base import DatabaseAwayError
from conjure.runs.database.postgres import PostgresSession


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ("10000", "5", "2", "3")),
        ("?keepalives_idle=60&tcp_user_timeout=0", ("0", "60", "2", "3")),
    ],
)
def test_a_server_that_is_gone_is_missed_soon_unless_the_address_says_otherwise(
    home, monkeypatch, options, expected
):
    given = []

    def connect(address, **_):
        given.append(conninfo_to_dict(address))
        raise psycopg.OperationalError("connection failed: no route to host")

    monkeypatch.setattr(psycopg.Connection, "connect", connect)
    with pytest.raises(DatabaseAwayError):
        PostgresSession(home, f"postgresql://ada@db.example.org/conjure{options}").query("SELECT 1")
    (found,) = given
    names = ("tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
    assert tuple(found[name] for name in names) == expected
    assert (found["user"], found["host"], found["dbname"]) == ("ada", "db.example.org", "conjure")
