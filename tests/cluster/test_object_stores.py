"""Object stores as servers: what every store must do, in S3 and in Azure's protocol; and TLS."""

import pytest

from conjure.runs.objects.base import ObjectsError
from conjure.runs.objects.remote import open_objects
from conjure.runs.objects.store_check import probe
from support.azure_server import AzureServer
from support.certificates import make_certificates
from support.object_contract import *  # noqa: F403


@pytest.fixture(params=["s3", "az", "az with a signature"])
def store(request, monkeypatch):
    server = request.getfixturevalue(request.param.partition(" ")[0])
    variables = server.signed_variables() if "signature" in request.param else server.variables()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def objects(store):
    return open_objects(store.new_address())


def test_they_refuse_to_overwrite_where_they_are_told_so(objects):
    assert probe(objects).refuses_to_overwrite


def test_a_container_that_is_not_there_is_told_so(az, monkeypatch):
    for name, value in az.variables().items():
        monkeypatch.setenv(name, value)
    address = az.new_address().replace("//teams/", "//nobodys/")
    with pytest.raises(ObjectsError, match="cannot be used: there is no such container"):
        probe(open_objects(address, tries=1))


def test_a_certificate_of_ones_own_authority_is_trusted_where_that_is_named(tmp_path, monkeypatch):
    made = make_certificates(tmp_path)
    with AzureServer.running(certificate=made.server, key=made.key) as server:
        for name, value in server.variables().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ObjectsError, match="its TLS certificate is not trusted") as refused:
            probe(open_objects(server.new_address(), tries=1))
        assert "SSL_CERT_FILE" in refused.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
        assert probe(open_objects(server.new_address(), tries=1)).refuses_to_overwrite
