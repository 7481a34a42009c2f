"""The shape of the tree: which way imports run, how long files are, and that light parts stay light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# recipes → callbacks → models → plugins: each kind may import its own and those after it.
ORDER = ("recipes", "callbacks", "models", "plugins")
MODULES = sorted(path for kind in (*ORDER, "data") for path in (ROOT / kind).rglob("*.py"))


def imported(path: Path, *, named: bool = True) -> set[str]:
    """The top folders of ours that a file imports, wherever in the file; also those of modules named in strings."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            ours = [f"fulgurite.{alias.name}" for alias in node.names] if node.module == "fulgurite" else [node.module]
            names |= set(ours)
        elif named and isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= set(re.findall(r"^fulgurite\.\w+(?=[\w.:]*$)", node.value))
    return {name.split(".")[1] for name in names if name and name.startswith("fulgurite.")} - {"__version__"}


def test_there_is_something_to_check():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == {*ORDER, "data"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    kind = path.relative_to(ROOT).parts[0]
    found = imported(path)
    if path == ROOT / "plugins" / "builtin.py":
        return  # names of components as strings are its purpose; nothing is imported
    allowed = {"data"} if kind == "data" else set(ORDER[ORDER.index(kind) :])
    if kind == "recipes":
        allowed.add("data")
    assert found <= allowed, f"{path.relative_to(ROOT)} imports {sorted(found - allowed)}"


def test_a_wrong_import_would_be_seen(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from fulgurite.callbacks import SeqPoint\n")
    assert imported(wrong) == {"callbacks"}


def test_no_file_is_over_500_lines():
    files = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    assert [str(path) for path in files if len(path.read_text().splitlines()) > 500] == []


def test_the_registry_imports_nothing_of_ours():
    assert imported(ROOT / "plugins" / "registry.py", named=False) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import fulgurite.callbacks, fulgurite.models, fulgurite.data, fulgurite.plugins",
        "from fulgurite.recipes.cli import main; main(['list'])",
        "from fulgurite.recipes.cli import main; main(['plugins'])",
        "from fulgurite.recipes.cli import main; main(['show', 'seqpoint/translation'])",
        "from fulgurite.recipes.cli import main; main(['copy', 'seqpoint/translation'])",
        "import fulgurite.recipes.pytest_plugin",
        "import fulgurite.callbacks.seqpoint.select, fulgurite.callbacks.seqpoint.plan",
    ],
)
def test_light_parts_stay_light(statement, tmp_path):
    code = f"import sys\n{statement}\nassert not {{'torch', 'lightning', 'numba'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
