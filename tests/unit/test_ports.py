"""Ports for servers of tests: nobody else is given them."""

import socket
import sys

import pytest

from support import ports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the servers that need them are tested there")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """So few ports to choose from that forty chosen without looking would hardly all differ."""
    first = ports.free_ports(1)[0] - 200
    monkeypatch.setattr(ports, "_FIRST", first)
    monkeypatch.setattr(ports, "_END", first + 200)


def test_no_port_is_given_twice_though_no_server_is_there_yet():
    given = ports.free_ports(20) + ports.free_ports(20)
    assert len(set(given)) == 40


def test_one_at_which_a_server_listens_is_not_given():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not ports._reserve(server.getsockname()[1])


def test_ports_beside_them_are_had_as_well(monkeypatch):
    monkeypatch.setattr(ports, "_END", ports._END + 1000)
    for port in ports.free_ports(5, above=1000):
        assert not ports._reserve(port + 1000)
