import math
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.log import EpochLog

COLUMNS = ("batch", "source", "optimizer_step")


def make(steps: int, seed: int = 0, epoch: int = 3, columns: tuple[str, ...] = COLUMNS) -> EpochLog:
    rng = np.random.default_rng(seed)
    padded = rng.integers(-1, 90, steps)
    return EpochLog(
        epoch=epoch,
        columns=columns,
        shapes=rng.integers(0, 90, (steps, len(columns))),
        seconds=rng.random(steps),
        waits=rng.random(steps) * 1e-7,
        starts=rng.random(steps),
        cold=rng.random(steps) < 0.5,
        traced=rng.random(steps) < 0.5,
        real=np.where(padded < 0, -1, padded // 2),
        padded=padded,
        peak_bytes=np.where(rng.random(steps) < 0.5, np.nan, rng.random(steps) * 1e12),
        outside=rng.random(steps),
    )


def same(a: EpochLog, b: EpochLog) -> bool:
    return all(
        np.array_equal(x, y, equal_nan=x.dtype.kind == "f") if isinstance(x, np.ndarray) else x == y
        for x, y in ((getattr(a, f.name), getattr(b, f.name)) for f in fields(EpochLog))
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 3))
def test_csv_reads_back_to_the_last_bit(tmp_path_factory, steps, seed, epoch, columns):
    path = tmp_path_factory.mktemp("log") / "steps.csv"
    log = make(steps, seed, epoch, COLUMNS[:columns])
    log.save_csv(path)
    back = EpochLog.load_csv(path)
    assert same(log, back)
    assert back.shapes.dtype == np.int64
    assert back.cold.dtype == np.bool_


def test_csv_is_for_people_too(tmp_path):
    make(2).save_csv(tmp_path / "steps.csv")
    header, first, _ = (tmp_path / "steps.csv").read_text().splitlines()
    assert header == (
        "epoch,step,batch,source,optimizer_step,seconds,waits,starts,cold,traced,real,padded,peak_bytes,outside"
    )
    assert first.startswith("3,0,")


def test_nothing_half_written_stays(tmp_path):
    broken = make(4)
    object.__setattr__(broken, "shapes", broken.shapes[:2])  # too few rows: the writer stops in the middle
    with pytest.raises(ValueError, match="zip"):
        broken.save_csv(tmp_path / "steps.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header epoch,step"),
        ("a,b\n1,2\n", "expected a header epoch,step.*got 'a,b' and 1 rows"),
        ("{header}\n", "at least one row, got .* and 0 rows"),
        ("{header}\n{row}\n3,1,x\n", "line 3: expected 14 numbers, got"),
        ("{header}\n{row}\n" + ",".join(["x"] * 14) + "\n", "line 3: expected 14 numbers, got"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    make(1).save_csv(tmp_path / "good.csv")
    header, row = (tmp_path / "good.csv").read_text().splitlines()
    (tmp_path / "bad.csv").write_text(text.format(header=header, row=row))
    with pytest.raises(ValueError, match=message):
        EpochLog.load_csv(tmp_path / "bad.csv")


def test_columns_that_do_not_fit_are_refused():
    log = make(4)
    with pytest.raises(ValueError, match=r"got shapes of dimensions \(3, 3\); expected \(4, 3\)"):
        replace(log, shapes=log.shapes[:3])
    with pytest.raises(ValueError, match=r"got cold of dimensions \(1,\); expected \(4,\)"):
        replace(log, cold=log.cold[:1])


def test_outside_is_zero_unless_said_otherwise():
    log = make(4)
    plain = EpochLog(**{f.name: getattr(log, f.name) for f in fields(EpochLog) if f.name != "outside"})
    assert plain.outside.tolist() == [0.0] * 4


def test_padding_is_the_share_of_the_known():
    log = replace(make(3), real=np.array([6, -1, 4]), padded=np.array([10, -1, 10]))
    assert log.padding == pytest.approx(0.5)
    assert math.isnan(replace(log, padded=np.full(3, -1)).padding)


def test_needs_numpy_only():
    code = "import sys; import fulgurite.callbacks.seqpoint.log; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
