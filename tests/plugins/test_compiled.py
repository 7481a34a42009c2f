import importlib.util
import multiprocessing
import sys

import pytest

from fulgurite.models.sparse_network.levels import counting_sort
from fulgurite.plugins.compiled import _digest, compiled

SOURCE = """
from pathlib import Path
from fulgurite.plugins.compiled import compiled

@compiled()
def answer(n):
    return {}
"""


@pytest.fixture(autouse=True)
def forgotten():
    yield
    sys.modules.pop("kept_answers", None)


def imported(path):
    """Anew, under a name by which numba finds it when it loads what it kept."""
    _digest.cache_clear()  # a process reads a file once
    spec = importlib.util.spec_from_file_location("kept_answers", path)
    sys.modules["kept_answers"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_where_code_can_be_kept_nowhere():
    """A function without a source file has no folder; numba then refuses to keep its code."""
    names = {}
    exec("def double(n):\n    return 2 * n", names)
    double = compiled()(names["double"])
    assert double(4) == 8
    assert double.signatures, "it was not compiled"


def test_loops_run_outside_the_interpreters_lock():
    assert counting_sort.targetoptions["nogil"]
    assert "parallel" not in counting_sort.targetoptions


def test_options_reach_numba():
    @compiled(error_model="numpy")
    def inverse(x):
        return 1.0 / x

    assert inverse(0.0) == float("inf")


def test_code_that_cannot_be_found_again_is_not_kept():
    @compiled(keep=False)
    def twice(function, x):
        return function(function(x))

    @compiled()
    def plus_one(x):
        return x + 1

    assert twice(plus_one, 1) == 3
    assert twice.targetoptions["nogil"]
    assert twice.stats.cache_path is None


def test_a_process_that_began_before_an_edit_leaves_no_old_code_behind(tmp_path):
    path = tmp_path / "answers.py"
    path.write_text(SOURCE.format("n + 1"))
    before = imported(path)
    path.write_text(SOURCE.format("n + 22"))
    after = imported(path)
    assert after.answer(0) == 22  # kept first, and numbered
    assert before.answer(0) == 1  # then the older code, which may not take that number
    again = imported(path)
    assert again.answer(0) == 22
    assert sum(again.answer.stats.cache_hits.values()) == 1


def test_an_edited_source_of_what_is_called_is_seen(tmp_path):
    called = tmp_path / "called.py"
    path = tmp_path / "answers.py"
    path.write_text(
        SOURCE.format("n").replace("compiled()", "compiled(sources=[Path(__file__).with_name('called.py')])")
    )
    names = []
    for text in ("a = 1", "a = 2", "a = 1"):
        called.write_text(text)
        names.append(imported(path).answer.py_func.__qualname__)
    assert names[0] == names[2] != names[1]


def call(path, kind, go):
    go.wait()
    assert imported(path).answer(kind(0)) == 1


def test_processes_that_compile_at_once_number_their_code_apart(tmp_path):
    path = tmp_path / "answers.py"
    path.write_text(SOURCE.format("n + 1"))
    context = multiprocessing.get_context("fork")
    go = context.Event()
    kinds = (int, float, complex, bool)
    processes = [context.Process(target=call, args=(path, kind, go)) for kind in kinds]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(kinds)
    assert len(list((tmp_path / "__pycache__").glob("*.nbc"))) == len(kinds)
    module = imported(path)
    for kind in kinds:
        assert module.answer(kind(0)) == 1
    assert sum(module.answer.stats.cache_hits.values()) == len(kinds)
