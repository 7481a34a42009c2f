from fulgurite.models.sparse_network.jit import compiled
from fulgurite.models.sparse_network.levels import counting_sort


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
