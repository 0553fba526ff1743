"""PostgreSQL and the object store over TLS, with an authority that nothing trusts unless it is told to."""

import psycopg
import pytest

from conjure.core.config import ExecutorSettings
from conjure.core.team_settings import read_team
from conjure.runs.executors.cluster_executor import ClusterExecutor
from support.casting import UNTIL_GO, wait_until
from support.certificates import make_certificates
from support.postgres_server import PostgresServer
from support.s3_server import S3Server
from support.team_members import Member, running_team


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("trusted"), "DNS:localhost")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Of another authority."""
    return make_certificates(tmp_path_factory.mktemp("other"), "DNS:localhost")


@pytest.fixture(scope="module")
def postgres(certificates):
    with PostgresServer.running(certificates=certificates) as server:
        yield server


@pytest.fixture(scope="module")
def s3(certificates):
    with S3Server.running(certificates=certificates) as server:
        yield server


@pytest.fixture
def database(postgres):
    """An empty database, as its administrator reaches it."""
    return postgres.new_database()


@pytest.fixture
def address(postgres, database, certificates):
    return postgres.tls_address(database, "localhost", certificates.authority)


@pytest.fixture
def trusting(store, certificates, monkeypatch):
    """The store, and its authority named in the environment."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
    return store


@pytest.fixture
def team(project, address, trusting):
    with running_team(project.parent, address, trusting.new_address()) as members:
        yield members


def connections(database):
    """Whether each of conjure's connections to a database is encrypted."""
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE application_name = 'conjure' AND datname = current_database()"
        ).fetchall()
    return [ssl for (ssl,) in rows]


def test_everything_of_a_team_is_done_over_tls(team, address, database, project):
    ada, bob = team
    ada.do("run", "-b", f"echo made > made.txt; echo printed; {UNTIL_GO}")
    ada.do("run", "-b", "--cpus", "1", "--after", "1", "-m", "runs/1/made.txt", "cat made.txt")
    wait_until(lambda: bob.do("logs", "1") == "printed\n", "its log")
    assert len(connections(database)) >= 2  # of the supervisor
    assert all(connections(database))
    bob.do("stop", "1")
    ada.call("wait", "1", "2")
    (ada.home.root.parent / "mine.txt").write_text("mine\n")
    bob.do("upload", str(ada.home.root.parent / "mine.txt"))
    assert ada.do("run", "-m", "uploads/mine.txt", "cat mine.txt").count("mine\n") == 1
    bob.do("cp", "runs/1", "out")
    assert (project / "out" / "made.txt").read_text() == "made\n"
    for member in team:
        assert read_team(member.home).database == address


def test_runs_are_pushed_over_tls(team, project, address):
    local = Member(project.parent / "local")
    local.do("run", "echo made > made.txt")
    local.do("--home", "lab", "team", "join", "--database", address)
    assert "local run 1 -> run 1" in local.do("--home", "lab", "team", "push")
    assert team[1].do("ls", "runs/1") == "made.txt\n"


def test_the_line_for_a_node_has_the_tls_options(team, address):
    ada, _ = team
    settings = ExecutorSettings("gpu", "ray", "http://127.0.0.1:1")
    assert f"--database '{address}'" in ClusterExecutor(ada.home, settings).how_to_join()


def test_each_connection_is_checked_anew(team, postgres, certificates, others):
    ada, _ = team
    postgres.stop()
    postgres.certificates = others
    postgres.start()
    try:
        refused = ada.call("ps")
        assert refused.returncode == 1
        assert "cannot be used over TLS: SSL error: certificate verify failed" in refused.stderr
    finally:
        postgres.stop()
        postgres.certificates = certificates
        postgres.start()
    ada.do("ps")


@pytest.mark.parametrize("command", ["init", "join"])
@pytest.mark.parametrize(
    ("host", "authority", "said"),
    [
        ("localhost", "other", "SSL error: certificate verify failed"),
        (
            "127.0.0.1",
            "own",
            'server certificate for "localhost" (and 1 other name) does not match host name',
        ),
        ("localhost", "missing", '/missing.pem" does not exist'),
    ],
)
def test_a_database_that_is_not_trusted_is_one_sentence(
    project, postgres, database, certificates, others, trusting, command, host, authority, said
):
    files = {"own": certificates.authority, "other": others.authority, "missing": "/missing.pem"}
    address = postgres.tls_address(database, host, files[authority])
    ada = Member(project.parent / "ada")
    objects = ("--objects", trusting.new_address()) if command == "init" else ()
    refused = ada.call("team", command, "--database", address, *objects)
    assert refused.returncode == 1
    error, hint = refused.stderr.splitlines()
    assert error.startswith("error: the team's database cannot be used over TLS: ")
    assert said in error
    assert "sslrootcert" in hint
    assert_nothing_was_written(ada, database)


@pytest.mark.parametrize(
    ("host", "bundle", "said", "advice"),
    [
        (None, None, "its TLS certificate is not trusted", "AWS_CA_BUNDLE or SSL_CERT_FILE"),
        (None, "other", "its TLS certificate is not trusted", "AWS_CA_BUNDLE or SSL_CERT_FILE"),
        (
            "127.0.0.1",
            "own",
            "its TLS certificate is for another host name",
            "a name that is in the certificate",
        ),
        (None, "/missing.pem", "AWS_CA_BUNDLE is /missing.pem, which cannot be read: No such file", ""),
        (None, "key", "which contains no certificate in PEM form", ""),
    ],
)
def test_a_store_that_is_not_trusted_is_one_sentence(
    project, address, database, store, certificates, others, monkeypatch, host, bundle, said, advice
):
    files = {"own": certificates.authority, "other": others.authority, "key": certificates.key}
    if bundle is not None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(files.get(bundle, bundle)))
    ada = Member(project.parent / "ada")
    refused = ada.call("team", "init", "--database", address, "--objects", store.new_address(host))
    assert refused.returncode == 1
    error, *hint = refused.stderr.splitlines()
    assert said in error
    assert advice in "".join(hint)
    assert len(hint) == bool(advice)
    assert_nothing_was_written(ada, database)


def assert_nothing_was_written(member, database):
    assert not member.home.team_file.exists()
    with psycopg.connect(database) as connection:
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        assert connection.execute(tables).fetchone() == (0,)


def test_a_store_is_trusted_as_all_programs_of_the_machine_trust(
    address, store, certificates, project, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    Member(project.parent / "ada").do("team", "init", "--database", address, "--objects", store.new_address())


def test_a_database_that_this_machine_does_not_trust_is_not_taken_for_lost(
    project, postgres, database, certificates, trusting, tmp_path
):
    """What the store says of its database names a file of the machine that began the team."""
    authority = tmp_path / "authority.pem"
    authority.write_bytes(certificates.authority.read_bytes())
    first = postgres.tls_address(database, "localhost", authority)
    objects = trusting.new_address()
    ada, eve = Member(project.parent / "ada"), Member(project.parent / "eve")
    ada.do("run", "true")
    ada.do("team", "init", "--database", first, "--objects", objects)
    authority.unlink()
    second = postgres.tls_address(postgres.new_database(), "localhost", certificates.authority)
    refused = eve.call("team", "init", "--database", second, "--objects", objects)
    assert refused.returncode == 1
    assert "which is still there: the team's database cannot be used over TLS" in refused.stderr
    assert not eve.home.team_file.exists()


def test_a_certificate_is_named_by_a_path_that_means_the_same_everywhere(project, postgres, database):
    address = postgres.tls_address(database, "localhost", "authority.pem")
    refused = Member(project.parent / "ada").call("team", "join", "--database", address)
    assert refused.returncode == 2
    assert "sslrootcert=authority.pem" in refused.stderr
    assert f"write sslrootcert={project}/authority.pem" in refused.stderr
