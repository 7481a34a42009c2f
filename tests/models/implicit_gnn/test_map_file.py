import subprocess
import sys

import numpy as np
import pytest
import torch

from fulgurite.models.implicit_gnn.asynchronous import as_adjoint_map, as_map
from fulgurite.models.implicit_gnn.fixed_point import AdjointEquation
from fulgurite.models.implicit_gnn.map_file import load_map, save_map
from fulgurite.plugins.dynamic_async.maps.implicit_graph import ImplicitGraphMap
from fulgurite.plugins.dynamic_async.model.errors import MapError


@pytest.mark.parametrize("nemon", [False, True])
@pytest.mark.parametrize("adjoint", [False, True])
def test_what_is_read_is_what_was_written(make_equation, tmp_path, nemon, adjoint):
    equation = make_equation(1, normalisation="symmetric", nemon=nemon)
    there = torch.rand(9, 4, dtype=torch.float64)
    made = as_adjoint_map(AdjointEquation(equation, there, there), 3) if adjoint else as_map(equation, 3)
    save_map(made, tmp_path / "map.npz")
    read = load_map(tmp_path / "map.npz")
    assert read.fingerprint() == made.fingerprint()
    np.testing.assert_array_equal(read.scale, made.scale)
    everybody, inputs = np.ones(3, dtype=bool), dict(enumerate(made.split(there.numpy())))
    for i in range(3):
        assert np.array_equal(read.evaluate(i, 0, everybody, inputs), made.evaluate(i, 0, everybody, inputs))


def test_reading_needs_no_torch(make_equation, tmp_path):
    save_map(as_map(make_equation(1), 3), tmp_path / "map.npz")
    code = (
        "import sys; from fulgurite.models.implicit_gnn.map_file import load_map; load_map(sys.argv[1]); "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "map.npz")], check=True, timeout=120)


def test_what_is_no_map_is_said(tmp_path):
    path = tmp_path / "map.npz"
    for damage in (b"nothing", b""):
        path.write_bytes(damage)
        with pytest.raises(MapError, match=r"map\.npz"):
            load_map(path)
    np.savez(path, bias=np.ones((3, 2)))
    with pytest.raises(MapError, match="kind"):
        load_map(path)


def test_a_damaged_file_is_said(make_equation, tmp_path):
    path = tmp_path / "map.npz"
    save_map(as_map(make_equation(1), 3), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(MapError, match=r"map\.npz"):
        load_map(path)


def test_several_graphs_do_not_fit_a_file(tmp_path):
    several = ImplicitGraphMap([np.eye(2), np.eye(2)], [[0.5]], np.ones((2, 1)), 2)
    with pytest.raises(MapError, match="2 epochs"):
        save_map(several, tmp_path / "map.npz")
    assert not list(tmp_path.iterdir())
