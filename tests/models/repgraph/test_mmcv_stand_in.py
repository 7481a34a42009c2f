"""The stand-in for mmcv's operators, and what is said where the stack is missing or wrong."""

import subprocess
import sys

import pytest

from fulgurite.models.repgraph.mmcv_stand_in import MissingOperators, provide_operators


def run(code: str, tmp_path, *, path: str = "") -> str:
    begin = f"import sys; sys.path.insert(0, {path!r})\n" if path else "import sys\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", begin + code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_operator_raises_when_it_is_called_and_not_before():
    module = MissingOperators("mmcv._ext")
    operator = module.nms_forward
    with pytest.raises(RuntimeError, match="'nms_forward' is compiled code, which mmcv-lite does not have"):
        operator(1, x=2)
    assert not hasattr(module, "__path__")


def test_operators_that_are_there_are_used_as_they_are(monkeypatch):
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    compiled = ModuleType("mmcv._ext")
    compiled.__spec__ = ModuleSpec("mmcv._ext", loader=object())
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert not provide_operators()
    assert sys.modules["mmcv._ext"] is compiled


def test_a_full_mmcv_that_is_not_imported_yet_is_found(tmp_path):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '2.1.0'\n")
    (package / "_ext.py").write_text("compiled = True\n")
    code = """
from fulgurite.models.repgraph.mmcv_stand_in import provide_operators
assert provide_operators() is False
assert "mmcv._ext" not in sys.modules
import mmcv._ext
assert mmcv._ext.compiled
"""
    run(code, tmp_path, path=str(tmp_path))


def test_an_mmcv_of_the_wrong_version_is_one_clear_line(tmp_path):
    pytest.importorskip("mmseg")
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '2.2.0'\n")
    code = """
from fulgurite.models.repgraph.mmcv_stand_in import import_mmseg
try:
    import_mmseg()
except ImportError as error:
    print(error)
"""
    line = run(code, tmp_path, path=str(tmp_path))
    assert line.count("\n") == 1
    assert "MMCV==2.2.0 is used but incompatible" in line
    assert 'pip install "fulgurite[mmseg]"' in line


def test_without_mmseg_all_else_works_and_the_error_names_the_extra(tmp_path):
    code = """
sys.modules["mmseg"] = sys.modules["mmcv"] = sys.modules["mmengine"] = None
import torch
from fulgurite.data import MmsegData
from fulgurite.models import MmsegSegmenter, RepGraph2d, SemanticSegmenter
x = torch.rand(1, 8, 6, 6)
assert torch.equal(RepGraph2d(8).eval()(x), x)
SemanticSegmenter(3, backbone="tiny_resnet").eval()(torch.rand(1, 3, 32, 32))
def registered(): import fulgurite.models.repgraph.mmseg
for use in (lambda: MmsegSegmenter("x"), lambda: MmsegSegmenter({}), registered,
            lambda: SemanticSegmenter.from_mmseg({}), lambda: MmsegData(dataset="ADE20KDataset")):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    lines = run(code, tmp_path).splitlines()
    assert len(lines) == 5
    assert all('pip install "fulgurite[mmseg]"' in line for line in lines)


def test_the_core_registers_nothing_and_either_import_serves_the_other(tmp_path):
    pytest.importorskip("mmseg")
    code = """
import fulgurite.models, fulgurite.models.repgraph
from fulgurite.models import RepGraph2d, NonLocal2d, SemanticSegmenter
from fulgurite.models.segmentation import MmsegSegmenter
assert not {"mmseg", "mmcv", "mmengine"} & set(sys.modules)
from fulgurite.data import MmsegData
data = MmsegData(dataset="CityscapesDataset", root="nowhere")
assert "fulgurite.models.repgraph.mmseg" not in sys.modules
from mmseg.registry import MODELS
assert "RepGraphHead" not in MODELS.module_dict
from fulgurite.models.repgraph.mmcv_stand_in import provide_operators
served = provide_operators()
import fulgurite.models.repgraph.mmseg
print(served, len(MODELS.module_dict), MODELS.module_dict["RepGraph2d"] is RepGraph2d)
"""
    served, count, same = run(code, tmp_path).split()
    from importlib.metadata import distributions

    lite = any((found.metadata["Name"] or "").lower() == "mmcv-lite" for found in distributions())
    assert (served, same) == (str(lite), "True")
    assert int(count) >= 90 + 4
