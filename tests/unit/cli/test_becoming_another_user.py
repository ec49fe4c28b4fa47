"""Root's rights are given up in the right order, for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from dray.cli.exits import FAILURE, USAGE, Stop
from dray.cli.process import daemon
from dray.cli.process.daemon import Owner, become, owner

#: Becomes a user and says who it is then; what it takes is imported before, for others may not read root's files.
BECOME = """
import json, os
from dray.cli.process.daemon import become, owner
become(owner("nobody", {group!r}))
become(owner("nobody", {group!r}))
print(json.dumps([os.getresuid(), os.getresgid(), sorted(os.getgroups())]))
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@as_root
@pytest.mark.parametrize(("group", "gid"), [(None, 65534), ("daemon", 1), ("1", 1)])
def test_user_group_and_further_groups_are_all_changed(group: str | None, gid: int) -> None:
    code = BECOME.format(group=group)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == [[65534] * 3, [gid] * 3, [gid]]


def test_groups_come_first_then_the_group_then_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def note(name: str, *fails: int) -> None:
        def call(*args: Any) -> None:
            done.append(f"{name}{args}")
            if args and args[0] in fails:
                raise PermissionError

        monkeypatch.setattr(daemon.os, name, call)

    for name in ("initgroups", "setgroups", "setgid"):
        note(name)
    note("setuid", 0)
    become(Owner(4000001, 4000002, "somebody"))
    assert done == ["initgroups('somebody', 4000002)", "setgid(4000002,)", "setuid(4000001,)", "setuid(0,)"]
    done.clear()
    become(Owner(4000001, 4000002, None))
    assert done[0] == "setgroups([4000002],)"


def test_rights_that_come_back_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("initgroups", "setgroups", "setgid", "setuid"):
        monkeypatch.setattr(daemon.os, name, lambda *args: None)
    with pytest.raises(Stop, match="root's rights could not be given up") as stop:
        become(Owner(4000001, 4000002, None))
    assert stop.value.code == FAILURE


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(daemon.os, "setgroups", refuse)
    with pytest.raises(Stop, match="only root can run a worker as another user: this is user") as stop:
        become(Owner(4000001, 4000002, None))
    assert stop.value.code == USAGE


def test_who_asks_for_nobody_in_particular_stays_who_it_is() -> None:
    assert owner(None, None) is None
    me = owner(str(os.getuid()), str(os.getgid()))
    assert me is not None
    become(me)
    assert (me.uid, me.gid) == (os.getuid(), os.getgid())
