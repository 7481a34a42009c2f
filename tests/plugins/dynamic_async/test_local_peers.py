import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from fulgurite.plugins.dynamic_async import local_peers
from fulgurite.plugins.dynamic_async.local_peers import LocalPeers

SLEEP = "import time; time.sleep(600)"


def peers(code, environment=None, **options):
    return LocalPeers([sys.executable, "-c", code], environment or {}, **options)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_each_has_its_number_and_the_secrets_are_not_on_the_command_line(tmp_path):
    code = f"""
import os, sys
from pathlib import Path
assert "hush" not in " ".join(sys.argv)
Path({str(tmp_path)!r}, os.environ["FULGURITE_ASYNC_PEER"]).write_text(os.environ["FULGURITE_ASYNC_KEY"])
"""
    group = peers(code, {local_peers.KEY: "hush"})
    group.start([1, 2, 3])
    assert group.wait(60) == {1: 0, 2: 0, 3: 0}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"1": "hush", "2": "hush", "3": "hush"}


def test_one_that_dies_is_named_and_the_others_live(caplog):
    group = peers("import os, time; time.sleep(600 if os.environ['FULGURITE_ASYNC_PEER'] == '2' else 0); exit(3)")
    with caplog.at_level(logging.WARNING):
        group.start([1, 2])
        wait_for(lambda: len(group.pids) == 1)
    assert set(group.pids) == {2}
    assert "peer 1 (process" in caplog.text
    assert "with exit code 3; the others go on" in caplog.text
    assert group.wait(0.0) == {1: 3, 2: -signal.SIGTERM}
    assert "peer 2" in caplog.text


def test_a_killed_one_is_started_again_as_often_as_is_asked(caplog):
    group = peers(SLEEP, restart_s=0.0, restarts=1)
    group.start([1])
    first = group.pids[1]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: group.pids.get(1, first) != first)
    os.kill(group.pids[1], signal.SIGKILL)
    wait_for(lambda: not group.pids)
    assert group.wait(1.0) == {1: -signal.SIGKILL}
    assert caplog.text.count("it is started again in 0 s") == 1


def test_one_that_fails_by_itself_is_not_started_again():
    group = peers("exit(1)", restart_s=0.0, restarts=9)
    group.start([1])
    wait_for(lambda: not group.pids)
    assert group.wait(1.0) == {1: 1}


def test_no_restart_once_waiting():
    group = peers(SLEEP, restart_s=600.0, restarts=9)
    group.start([1])
    group.signal(signal.SIGKILL)
    begin = time.monotonic()
    assert group.wait(60) == {1: -signal.SIGKILL}
    assert time.monotonic() - begin < 30


@pytest.mark.slow
def test_they_outlive_who_started_them(tmp_path):
    code = f"""
import sys, os, signal
from fulgurite.plugins.dynamic_async.local_peers import LocalPeers
child = "import time, os; from pathlib import Path; time.sleep(1); Path({str(tmp_path / "alive")!r}).write_text('yes')"
LocalPeers([sys.executable, "-c", child], {{}}).start([1])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == -signal.SIGKILL
    wait_for((tmp_path / "alive").exists)
