"""Keys: from where, when none is needed, and when none will do."""

import pytest

from fulgurite.plugins.dynamic_async.engine.keys import VARIABLE, new_run, run_nonce, shared_key
from fulgurite.plugins.dynamic_async.engine.transport import TransportError

LOCAL, OPEN = "tcp://127.0.0.1:0", "tcp://10.1.2.3:5000"
KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_one_key_by_three_ways(tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    monkeypatch.setenv(VARIABLE, "f" * 64)
    option, file, environment = shared_key(OPEN, key=KEY), shared_key(OPEN, file=path), shared_key(OPEN)
    assert [key.source for key in (option, file, environment)] == ["option", "file", "environment"]
    assert option.material == file.material != environment.material
    assert len(option.material) == 32


@pytest.mark.parametrize("address", [LOCAL, "tcp://[::1]:0", "tcp://localhost:5000", "ipc:///tmp/peer", "memory://a"])
def test_one_is_made_where_nobody_else_can_listen(address):
    first, second = shared_key(address), shared_key(address)
    assert first.source == "made"
    assert first.material != second.material
    assert shared_key(OPEN, key=first.text).material == first.material


@pytest.mark.parametrize(
    "address",
    [OPEN, "tcp://0.0.0.0:5000", "tcp://[::]:5000", "tcp://*:5000", "tcp://localhost.evil.org:1", "ray://a", ""],
)
def test_none_is_refused_where_others_can(address):
    with pytest.raises(TransportError, match=VARIABLE):
        shared_key(address)


def test_a_key_is_not_shown():
    assert KEY not in repr(shared_key(OPEN, key=KEY))
    with pytest.raises(TransportError) as caught:
        shared_key(OPEN, key="hunter2")
    assert "hunter2" not in str(caught.value)


def test_short_and_doubled_keys_are_refused(tmp_path, monkeypatch):
    for bad in ("", "x" * 31, " " * 64, "x" * 5000):
        with pytest.raises(TransportError, match="characters"):
            shared_key(LOCAL, key=bad)
    with pytest.raises(TransportError, match="one of them"):
        shared_key(LOCAL, key=KEY, file=tmp_path / "key")
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(TransportError, match=VARIABLE):
        shared_key(LOCAL)


def test_a_file_that_everybody_can_read_is_no_secret(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0o644)
    with pytest.raises(TransportError, match="chmod 600"):
        shared_key(OPEN, file=path)
    path.chmod(0o600)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(TransportError, match="no key can be read"):
        shared_key(OPEN, file=path)
    for unreadable in (tmp_path / "missing", tmp_path):
        with pytest.raises(TransportError, match="read"):
            shared_key(OPEN, file=unreadable)


def test_runs_have_names():
    assert run_nonce("a") == run_nonce("a") != run_nonce("b")
    assert new_run() != new_run()
