"""The wheel holds every package and every recipe; built from the tree and read."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("plugins", "callbacks", "models", "data", "recipes")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the tree so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_module_and_every_recipe(wheel):
    expected = {
        f"fulgurite/{path.relative_to(ROOT).as_posix()}"
        for kind in KINDS
        for path in (ROOT / kind).rglob("*")
        if path.suffix in (".py", ".yaml", ".html") and "__pycache__" not in path.parts
    }
    assert expected
    assert {"fulgurite/__init__.py", "fulgurite/py.typed", *expected} <= set(wheel.namelist())


def test_the_wheel_holds_nothing_else(wheel):
    folders = {name.split("/")[1] for name in wheel.namelist() if name.startswith("fulgurite/")}
    assert folders == {"__init__.py", "py.typed", *KINDS}
    assert {name.split("/")[0] for name in wheel.namelist()} == {"fulgurite", f"fulgurite-{version()}.dist-info"}


def test_the_wheel_names_licence_entry_points_and_extras(wheel):
    info = f"fulgurite-{version()}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    for extra in ("mmseg", "data", "detection", "neat", "async", "ray", "onnx", "bench", "all", "dev"):
        assert f"Provides-Extra: {extra}" in metadata
    points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "fulgurite = fulgurite.recipes.cli:main" in points
    assert "[pytest11]" in points
    assert "[fulgurite.plugins]" in points


def test_every_floor_has_its_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [")
    for line in lines[start + 1 : lines.index("]", start)]:
        assert re.search(r'",\s+# \w+', line), f"no reason beside {line.strip()}"


def test_the_version_is_said_once():
    import fulgurite

    assert fulgurite.__version__ == version()


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
