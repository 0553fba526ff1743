"""What control groups allow, read from files as the kernel writes them."""

import sys

import pytest

from conjure.core.machine_limits import cpu_limit, free_memory_bytes, memory_limit_bytes, own_cgroup
from support.cgroups import NO_LIMIT_OF_VERSION_1, put_into_group, write


class TestVersion2:
    @pytest.fixture
    def own(self, tmp_path, monkeypatch):
        return put_into_group(tmp_path, monkeypatch)

    def test_without_limits_there_are_none(self, own):
        write(own, memory_max="max", cpu_max="max 100000")
        assert memory_limit_bytes() == free_memory_bytes() == cpu_limit() == sys.maxsize

    def test_the_least_of_all_groups_counts(self, own):
        write(own, memory_max="max", cpu_max="300000 100000")
        write(own.parent, memory_max="800000000", memory_current="100000000", cpu_max="150000 100000")
        write(own.parent.parent, memory_max="900000000", memory_current="400000000")
        assert (cpu_limit(), memory_limit_bytes(), free_memory_bytes()) == (1.5, 800_000_000, 500_000_000)

    def test_cache_that_is_not_in_use_is_free(self, own):
        stat = "anon 150000000\nfile 300000000\ninactive_file 200000000\nactive_file 100000000"
        write(own, memory_max="500000000", memory_current="450000000", memory_stat=stat)
        assert free_memory_bytes() == 250_000_000

    def test_more_in_use_than_is_allowed_leaves_nothing(self, own):
        write(own, memory_max="500000000", memory_current="500004096")
        assert free_memory_bytes() == 0

    def test_its_own_group_has_a_folder(self, own):
        assert own_cgroup() == own

    def test_where_the_group_cannot_be_seen_what_is_mounted_counts(self, own, tmp_path):
        (tmp_path / "mountinfo").write_text(f"30 24 0:26 /host/pod {own} rw - cgroup2 cgroup2 rw\n")
        write(own, memory_max="700000000")
        assert (memory_limit_bytes(), own_cgroup()) == (700_000_000, None)


class TestVersion1:
    def test_memory(self, tmp_path, monkeypatch):
        own = put_into_group(tmp_path, monkeypatch, "memory")
        stat = "inactive_file 5\nactive_file 7\ntotal_inactive_file 30000000\ntotal_active_file 7"
        write(own, memory_limit_in_bytes="700000000", memory_usage_in_bytes="100000000", memory_stat=stat)
        write(own.parent, memory_limit_in_bytes=NO_LIMIT_OF_VERSION_1, memory_usage_in_bytes="400000000")
        assert (memory_limit_bytes(), free_memory_bytes()) == (700_000_000, 630_000_000)

    @pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
    def test_processors(self, tmp_path, monkeypatch, controllers):
        own = put_into_group(tmp_path, monkeypatch, controllers)
        write(own, cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
        assert cpu_limit() == sys.maxsize
        write(own.parent, cpu_cfs_quota_us="250000", cpu_cfs_period_us="100000")
        assert cpu_limit() == 2.5

    def test_it_has_no_group_to_make_others_in(self, tmp_path, monkeypatch):
        put_into_group(tmp_path, monkeypatch, "memory")
        assert own_cgroup() is None


def test_without_control_groups_there_are_no_limits(tmp_path, monkeypatch):
    put_into_group(tmp_path, monkeypatch)
    for name in ("mountinfo", "own"):
        (tmp_path / name).unlink()
    assert memory_limit_bytes() == free_memory_bytes() == cpu_limit() == sys.maxsize
    assert own_cgroup() is None
