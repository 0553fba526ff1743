"""What the tests with real services share: they fail, and do not skip, where a service cannot be had."""

import pytest

from support.postgres_server import PostgresServer
from support.s3_server import S3Server

pytest.register_assert_rewrite("support.database_contract")


@pytest.fixture(scope="session")
def postgres():
    with PostgresServer.running() as server:
        yield server


@pytest.fixture(scope="session")
def s3():
    with S3Server.running() as server:
        yield server
