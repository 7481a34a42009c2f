import itertools
import math
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.schedules import RateSchedule


class Counted:
    """A Trainer that notes how often it is asked for the number of steps."""

    def __init__(self, steps):
        self.steps = steps
        self.asked = 0

    @property
    def estimated_stepping_batches(self):
        self.asked += 1
        return self.steps


def rates(schedule, steps, run=None, optimizer=None):
    optimizer = optimizer or torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    module = SimpleNamespace(trainer=Counted(steps))
    configured = schedule.configure(module, optimizer)
    assert module.trainer.asked == 0
    found = []
    for _ in range(run or steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        configured["lr_scheduler"]["scheduler"].step()
    assert configured["lr_scheduler"]["interval"] == "step"
    return found


def test_poly_is_the_fields_formula():
    assert rates(RateSchedule("poly", power=0.9), 10) == pytest.approx([2 * (1 - t / 10) ** 0.9 for t in range(10)])


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    wanted = []
    for _ in range(12):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(RateSchedule("cosine"), 12) == pytest.approx(wanted)


def test_step_is_torchs_at_milestones_of_the_run():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[6, 8], gamma=0.1)
    wanted = []
    for _ in range(9):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(RateSchedule("step"), 9) == pytest.approx(wanted)


def test_a_warm_up_is_linear_and_is_multiplied():
    found = rates(RateSchedule("constant", warmup_steps=4, warmup_ratio=0.2), 100, run=6)
    assert found == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    plain, warm = rates(RateSchedule("poly"), 20), rates(RateSchedule("poly", warmup_steps=5), 20)
    assert warm[5:] == plain[5:]
    assert warm[3] == pytest.approx(plain[3] * (1e-3 + 0.999 * 3 / 5))


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(["poly", "step", "cosine", "constant"]),
    st.integers(1, 50),
    st.integers(0, 20),
    st.floats(0.1, 3),
)
def test_a_share_is_between_0_and_1_and_falls_after_the_warm_up(name, steps, warmup, power):
    schedule = RateSchedule(name, warmup_steps=warmup, power=power)
    shares = [schedule.factor(step, steps) for step in range(steps + 3)]
    assert all(0 <= share <= 1 for share in shares)
    after = shares[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(after))


def test_each_group_keeps_its_own_rate():
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in (1.0, 10.0)]
    optimizer = torch.optim.SGD(groups)
    rates(RateSchedule("poly"), 10, run=5, optimizer=optimizer)
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert second == pytest.approx(10 * first)
    assert first == pytest.approx(0.5**0.9)


def test_a_constant_rate_needs_no_schedule():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    assert RateSchedule("constant").configure(SimpleNamespace(), optimizer) is optimizer


def test_a_run_without_end_is_named_at_the_second_step():
    with pytest.raises(ValueError, match=r"schedule='poly' needs the end of the run: give Trainer\(max_epochs"):
        rates(RateSchedule("poly"), math.inf, run=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "linear"}, "got schedule='linear'; choose from poly, step, cosine, constant"),
        ({"warmup_steps": -1}, "got warmup_steps=-1; want 0 or more"),
        ({"warmup_ratio": 2.0}, "got warmup_ratio=2.0"),
        ({"power": 0.0}, "got power=0.0"),
        ({"gamma": 0.0}, "got gamma=0.0"),
        ({"milestones": (8, 11)}, "got milestones=[8, 11]; want shares of the run between 0 and 1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RateSchedule(**options)
