"""How many processors a process may use: fake control groups of both versions, as containers show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dray.processors import processors


class Machine:
    """A tree of control groups, and the file that says where this process is in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.root.mkdir()
        self.proc = folder / "self"

    def file(self, path: str, text: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def processors(self) -> int:
        return processors(self.proc, self.root)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    return Machine(tmp_path)


def test_without_control_groups_all_processors_are_there(machine: Machine) -> None:
    assert machine.processors() == 64


def test_the_affinity_bounds_them(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert machine.processors() == 3


def test_a_system_without_affinity_has_what_it_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.processors() == 1


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("max 100000", 64),
        ("9900000 100000", 64),
        ("", 64),
        ("nonsense", 64),
        ("100000 0", 64),
    ],
)
def test_version_2_grants_a_quota(machine: Machine, quota: str, expected: int) -> None:
    machine.proc.write_text("0::/\n")
    machine.file("cpu.max", quota)
    assert machine.processors() == expected


def test_in_version_2_every_level_may_limit(machine: Machine) -> None:
    machine.proc.write_text("0::/kubepods/pod1/container\n")
    machine.file("kubepods/pod1/container/cpu.max", "max 100000\n")
    machine.file("kubepods/pod1/cpu.max", "300000 100000\n")
    machine.file("kubepods/cpu.max", "4000000 100000\n")
    assert machine.processors() == 3


@pytest.mark.parametrize("path", ["/docker/0123", "/../../system.slice/docker-0123.scope"])
def test_in_a_container_the_path_may_be_the_hosts(machine: Machine, path: str) -> None:
    machine.proc.write_text(f"0::{path}\n")
    machine.file("cpu.max", "400000 100000\n")
    assert machine.processors() == 4


@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 64), ("", 64)])
def test_version_1_grants_a_quota(machine: Machine, quota: str, expected: int) -> None:
    machine.proc.write_text("12:memory:/docker/01\n4:cpu,cpuacct:/docker/01\n0::/docker/01\n")
    machine.file("cpu/docker/01/cpu.cfs_quota_us", quota)
    machine.file("cpu/docker/01/cpu.cfs_period_us", "100000")
    assert machine.processors() == expected


def test_in_version_1_the_group_above_may_limit_too(machine: Machine) -> None:
    machine.proc.write_text("4:cpu:/pod/container\n")
    machine.file("cpu/pod/container/cpu.cfs_quota_us", "-1")
    machine.file("cpu/pod/container/cpu.cfs_period_us", "100000")
    machine.file("cpu/pod/cpu.cfs_quota_us", "500000")
    machine.file("cpu/pod/cpu.cfs_period_us", "100000")
    assert machine.processors() == 5


def test_what_cannot_be_read_limits_nothing(machine: Machine) -> None:
    machine.proc.write_bytes(b"\xff\xfe\nno colons\n::\n0::/a\x00b\n")
    assert machine.processors() == 64


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= processors() <= (os.cpu_count() or 1)
