"""What the tests with real services share: they fail, and do not skip, where a service cannot be had."""

import random
from dataclasses import dataclass

import pytest

from support.azure_server import AzureServer
from support.postgres_server import PostgresServer
from support.s3_server import S3Server

pytest.register_assert_rewrite(
    "support.cluster_contract",
    "support.database_contract",
    "support.object_contract",
    "support.team_members",
)


@dataclass(frozen=True)
class Extent:
    """How often faults are tried, and how long they last.

    Attributes:
        rounds: Of 20 random SIGKILLs each.
        cluster_losses: Random losses on a cluster.
        runs_at_once: Runs that two homes start at the same time.
        operations: Commands of each of two machines on the same runs, at the same time.
        restarts: Restarts of the database while runs start.
        heartbeat_s: Seconds between heartbeats; all other times follow from it.
        short_heartbeat_s: The same where a take-over is waited for.
        cluster_heartbeat_s: The same for runs on a cluster.
    """

    rounds: int
    cluster_losses: int
    runs_at_once: int
    operations: int
    restarts: int
    heartbeat_s: float
    short_heartbeat_s: float
    cluster_heartbeat_s: float

    @property
    def outage_s(self) -> float:
        """How long a server is away, or a cluster's head: a minute, in the full extent."""
        return 12 * self.heartbeat_s

    @property
    def take_over_s(self) -> float:
        """How long it may take until another machine has closed a run that was lost, and some more."""
        return 300 * self.short_heartbeat_s + 60


SMALL = Extent(1, 1, 6, 5, 2, heartbeat_s=0.25, short_heartbeat_s=0.04, cluster_heartbeat_s=1.0)
FULL = Extent(15, 12, 100, 150, 30, heartbeat_s=5.0, short_heartbeat_s=5.0, cluster_heartbeat_s=5.0)


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="try faults in their full number and length")
    parser.addoption("--seed", type=int, help="of what is tried at random")


def extent_of(config):
    return FULL if config.getoption("--soak") else SMALL


def pytest_generate_tests(metafunc):
    if "kill_round" in metafunc.fixturenames:
        metafunc.parametrize("kill_round", range(1, extent_of(metafunc.config).rounds + 1))


@pytest.fixture(scope="session")
def extent(request):
    return extent_of(request.config)


@pytest.fixture
def rng(request):
    """Random numbers, the same each time but in a soak; pytest shows the seed where a test fails."""
    seed = request.config.getoption("--seed")
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 32) if request.config.getoption("--soak") else 1
    print(f"the same again: --seed {seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def postgres():
    with PostgresServer.running() as server:
        yield server


@pytest.fixture(scope="session")
def s3():
    with S3Server.running() as server:
        yield server


@pytest.fixture
def address(postgres):
    return postgres.new_database()


@pytest.fixture
def project(conjure_home, tmp_path, monkeypatch):
    """The current folder; the homes of a team lie beside it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


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
