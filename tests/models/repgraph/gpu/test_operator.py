"""The fused attention: what holds without kernels, here; the kernels, in processes of their own (check_triton.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fulgurite.models.repgraph import gpu
from fulgurite.models.repgraph.gpu import attend_by_triton, operator, supported

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]


def in_a_process(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def checks():
    return "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "check_triton.py")


@pytest.mark.slow
def test_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    out = in_a_process(*checks(), TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert " passed" in out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_on_the_device():
    out = in_a_process(*checks())
    assert " passed" in out


@pytest.mark.slow
def test_kernels_compile_without_a_device(tmp_path):
    pytest.importorskip("triton")
    out = in_a_process(str(HERE / "compile_triton.py"), TRITON_CACHE_DIR=str(tmp_path))
    for name in ("attend", "differentiate", "differentiate_far", "tap_rows", "sum_spans", "sum_rows"):
        assert name in out.split()


def test_a_cpu_tensor_is_refused_in_a_line():
    pytest.importorskip("triton")
    code = (
        "import torch; from fulgurite.models.repgraph.gpu import attend_by_triton\n"
        "rows, here = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 2)\n"
        "try: attend_by_triton(rows, rows, rows, here, (1, 1))\n"
        "except ValueError as error: print(error)\n"
    )
    out = in_a_process("-c", code)
    assert out == (
        "the fused attention was asked for, but tensors are on cpu, and it needs a CUDA device (or TRITON_INTERPRET=1 "
        "from the start, for tests); use backend='bag' or 'auto'\n"
    )


def test_without_triton_only_asking_for_it_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("launch", "forward", "backward", "segments", "sampling"):
        monkeypatch.delitem(sys.modules, f"{gpu.__name__}.{name}", raising=False)
        # A test before this one may have imported it, and a package remembers its modules.
        monkeypatch.delattr(gpu, name, raising=False)
    rows, here = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 2)
    assert (
        supported(rows) == "the package triton is not installed (pip install triton; it comes with torch's CUDA builds)"
    )
    with pytest.raises(ValueError, match="the package triton is not installed"):
        attend_by_triton(rows, rows, rows, here, (1, 1))


def test_an_old_device_is_refused(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100")
    for capability, reason in (
        ((6, 0), "Tesla P100 is older than Triton's oldest, compute capability 7.0"),
        ((7, 0), None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert operator._reason("cuda:0") == reason


def test_shapes_are_known_without_kernels():
    operators = torch.ops.fulgurite
    rows = torch.empty(2, 12, 3, 5, dtype=torch.bfloat16, device="meta")
    far = torch.empty(2, 4, 3, 5, dtype=torch.bfloat16, device="meta")
    here = torch.empty(2, 12, 3, 9, 2, device="meta")
    arguments = (rows, rows, None, here, 3, 4, far, None, False)
    y, lse = operators.repgraph_attention(*arguments)
    assert (y.shape, y.dtype, lse.shape, lse.dtype) == (rows.shape, rows.dtype, rows.shape[:3], torch.float32)
    grads = operators.repgraph_attention_backward(y, lse, y, lse, *arguments)
    assert [tuple(grad.shape) for grad in grads] == [
        tuple(shape) for shape in (rows.shape, rows.shape, (0,), here.shape, far.shape, (0,))
    ]
