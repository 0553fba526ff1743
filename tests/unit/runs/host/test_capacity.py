"""What runs share is what this process may use."""

import os

from conjure.runs.host.capacity import Capacity
from support.cgroups import put_into_group, write


def test_limits_of_control_groups_count(tmp_path, monkeypatch):
    write(put_into_group(tmp_path, monkeypatch), memory_max="800000000", cpu_max="150000 100000")
    capacity = Capacity.of_this_machine()
    assert (capacity.cpus, capacity.memory_bytes) == (1, 800_000_000)


def test_without_limits_it_is_the_machine(tmp_path, monkeypatch):
    put_into_group(tmp_path, monkeypatch)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert Capacity.of_this_machine().memory_bytes == machine
