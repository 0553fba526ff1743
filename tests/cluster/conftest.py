"""What the tests with real services share: they fail, and do not skip, where a service cannot be had."""

import pytest

from support.azure_server import AzureServer
from support.postgres_server import PostgresServer
from support.s3_server import S3Server

pytest.register_assert_rewrite("support.database_contract", "support.object_contract")


@pytest.fixture(scope="session")
def postgres():
    with PostgresServer.running() as server:
        yield server


@pytest.fixture(scope="session")
def s3():
    with S3Server.running() as server:
        yield server


@pytest.fixture(scope="session")
def az():
    with AzureServer.running() as server:
        yield server


@pytest.fixture
def store(request, monkeypatch):
    """A server of objects, and its keys in the environment: of S3, where a test does not ask for others."""
    server = request.getfixturevalue(getattr(request, "param", "s3"))
    for name, value in server.variables().items():
        monkeypatch.setenv(name, value)
    return server
