import json

import numpy as np
import pytest

from fulgurite.callbacks.seqpoint.plan import Plan, PlanError
from fulgurite.callbacks.seqpoint.plan_file import from_json, read_plan, to_json
from fulgurite.callbacks.seqpoint.select import select


@pytest.fixture
def data():
    lengths = np.arange(1, 61)
    shapes = np.stack([np.full(60, 8), lengths], axis=1)
    plan = select(shapes, 0.01 * lengths, points=4)
    return to_json(plan.with_measured({point.shape: point.seconds for point in plan.points}))


def test_what_is_written_is_read(data):
    assert to_json(from_json(json.loads(json.dumps(data)))) == data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "not a SeqPoint plan"),
        ('"plan"', "not a SeqPoint plan"),
        ("{}", "not a SeqPoint plan"),
        ('{"format": "fulgurite-seqpoint-plan", "version": 2}', "version 2"),
        ('{"format": "fulgurite-seqpoint-plan"}', "version None"),
        ('{"format": "fulgurite-seqpoint-plan", "version": 1}', "has no 'columns'"),
        ('{"a": NaN}', "NaN"),
        ('{"a": Infinity}', "Infinity"),
        (b"\xff\xfe\x00", "no JSON"),
    ],
)
def test_garbage_is_refused_by_name(tmp_path, text, said):
    path = tmp_path / "broken.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PlanError, match=said) as caught:
        Plan.load(path)
    assert "broken.json" in str(caught.value)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(PlanError, match="cannot read"):
        read_plan(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("selector",), "best", "selector"),
        (("columns",), "batch", "columns"),
        (("columns",), [], "no columns"),
        (("columns",), ["batch", "source", "target"], "another number of columns"),
        (("length",), 2, "length column"),
        (("length",), True, "length"),
        (("iterations",), 59, "logged"),
        (("iterations",), 60.0, "iterations"),
        (("iterations",), 80, "weights"),
        (("seconds",), "10", "seconds"),
        (("seconds",), 10**400, "seconds"),
        (("fingerprint",), "", "fingerprint"),
        (("fingerprint",), "ab/60/1 2", "fingerprint"),
        (("refusal",), 3, "refusal"),
        (("systematic",), -1.0, "systematic"),
        (("cost", "floor"), 0, "floor"),
        (("cost", "coefficients"), [1.0], "coefficient"),
        (("cost", "terms"), [[0, -1]], "terms"),
        (("cost", "extra"), 1, "unknown key 'extra'"),
        (("points",), [], "no points"),
        (("points", 0, "weight"), None, "weight"),
        (("points", 0, "weight"), -1, "weight"),
        (("points", 0, "runs"), [], "no run"),
        (("points", 0, "runs"), [60], "run"),
        (("points", 0, "indices"), [0, 0], "stand for every logged iteration"),
        (("points", 0, "shape"), [8], "columns"),
        (("points", 0, "cost"), 0.0, "cost"),
        (("lengths",), [], "logged"),
        (("measured",), [[1.0]], "measured"),
        (("measured",), [[], [], [], []], "measured"),
        (("measured", 0), [0.0], "measured"),
        (("surprise",), 1, "unknown key 'surprise'"),
    ],
)
def test_a_damaged_plan_is_refused(data, path, value, said):
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(PlanError, match=said):
        from_json(data)


@pytest.mark.parametrize("key", ["points", "cost", "weight", "lengths", "fingerprint"])
def test_a_missing_key_is_named(data, key):
    (data["points"][1] if key == "weight" else data).pop(key)
    with pytest.raises(PlanError, match=f"no '{key}'"):
        from_json(data)


def test_a_plan_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, data):
    path = tmp_path / "plan.json"
    plan = from_json(data)
    plan.save(path)
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        plan.save(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
