import re
from dataclasses import replace

import pytest

from fulgurite.plugins.snapshot_parallel.calibration import LINKS
from fulgurite.plugins.snapshot_parallel.memory import MemoryPlan, RankMemory
from fulgurite.plugins.snapshot_parallel.plan import Plan, PlanRow, with_speedups
from fulgurite.plugins.snapshot_parallel.plan_page import cells, columns, picture, render, settings, write_picture
from fulgurite.plugins.snapshot_parallel.statistics import Statistics

STATISTICS = Statistics.parse("snapshots=20,nodes=1000,nnz=300,features=2")


def a_row(ranks, compute, communication, *, blocks=1, kept="none", fits=True, exchange="all-to-all", idle=0):
    memory = RankMemory(0, 100, 2000, 300, 4_000_000 // ranks, 50, 6)
    return PlanRow(
        ranks=ranks,
        memory=MemoryPlan(ranks, blocks, kept, (memory,)),
        fits=fits,
        idle=idle,
        exchange=exchange if ranks > 1 else "none",
        compute=compute,
        basis="replayed",
        transfer=0.0,
        calls=10,
        sent=1000,
        total_sent=1000 * ranks,
        communication=communication,
    )


def a_plan(*rows, **options):
    rows = with_speedups(rows, rows[0].step)
    options = {"notes": ("<b>bold</b> & so",), "memory_bytes": 8 << 20, **options}
    return Plan("WDGCN", STATISTICS, LINKS["pcie"], "a CPU", rows=rows, **options)


GOOD = a_plan(a_row(1, 8.0, 0.0), a_row(2, 4.0, 0.5), a_row(4, 2.0, 1.0), a_row(8, 1.0, 4.0, idle=3))


def test_the_fastest_that_is_efficient_and_fits_is_recommended():
    assert GOOD.recommended.ranks == 4
    assert replace(GOOD, efficiency=0.8).recommended.ranks == 2
    tight = a_plan(a_row(1, 8.0, 0.0, fits=False), a_row(2, 4.0, 0.5, blocks=3, kept="resend"), a_row(4, 3.9, 1.0))
    assert tight.recommended.ranks == 2
    assert "so it is sent again" in tight.reason


def test_ranks_without_a_snapshot_are_not_recommended():
    plan = a_plan(a_row(1, 8.0, 0.0), a_row(2, 4.0, 0.0), a_row(4, 2.1, 0.0, idle=1))
    assert plan.recommended.ranks == 2
    assert "more would leave ranks without a snapshot" in plan.reason


def test_where_none_is_efficient_the_fewest_that_fit_are():
    plan = a_plan(a_row(1, 8.0, 0.0, fits=False), a_row(8, 7.0, 0.0), a_row(16, 6.9, 0.0))
    assert plan.recommended.ranks == 8
    assert "none that fits reaches an efficiency of 50%" in plan.reason


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (
            GOOD,
            "4 ranks: more would leave ranks without a snapshot; 1 block: everything fits without re-computation; all-",
        ),
        (a_plan(a_row(1, 8.0, 0.0), a_row(2, 4.0, 5.0)), "1 rank: more would not be faster"),
        (a_plan(a_row(1, 8.0, 0.0)), "1 rank: the fastest that was looked at; 1 block"),
        (a_plan(a_row(1, 8.0, 0.0), a_row(2, 4.0, 0.0, exchange="halo")), "halo: a few frames"),
        (a_plan(a_row(1, 8.0, 0.0, blocks=4, kept="save")), "4 blocks, the fewest that fit; what collectives bring"),
        (a_plan(a_row(1, 8.0, 0.0, fits=False)), "Nothing fits: even 1 rank with 1 block needs 4"),
    ],
)
def test_the_reason_is_said(plan, said):
    assert said in plan.reason


def test_the_page_needs_nothing_but_itself():
    page = render(GOOD)
    assert not re.search(r"<script|<link|https?://|url\((?!#)|<img", page)
    assert page.count("<svg") == 1
    assert "$" not in page.replace("${", "")


def test_the_page_says_that_it_predicts_and_escapes_what_it_is_given():
    page = render(GOOD)
    assert "Every number here is predicted" in page
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; so" in page
    assert "link: pcie, assumed" in page
    assert "&lt;i&gt;" in render(replace(GOOD, network="<i>"))


def test_a_page_where_nothing_fits_is_written_too():
    page = render(a_plan(a_row(1, 8.0, 0.0, fits=False)))
    assert "nothing fits" in page
    assert "<pre>" not in page


def test_the_table_has_a_line_for_every_row_and_no_empty_column():
    page = render(GOOD)
    assert page.count("<tr>") + page.count("<tr class=chosen>") == 1 + len(GOOD.rows)
    assert "transfer" not in columns(GOOD)
    assert "idle ranks" in columns(GOOD)
    assert cells(a_row(2, 1.0, 0.5, blocks=3, kept="save", fits=False))["blocks"] == "3, save"


def test_the_settings_are_a_recipes():
    import yaml

    plan = a_plan(a_row(1, 8.0, 0.0, fits=False), a_row(2, 4.0, 0.5, blocks=3, kept="resend"))
    assert yaml.safe_load(settings(plan)) == {
        "trainer": {
            "devices": 2,
            "strategy": {
                "class_path": "SnapshotParallelStrategy",
                "init_args": {"balance": "nnz", "blocks": 3, "collectives": "resend"},
            },
        }
    }


def test_the_picture_shows_time_and_memory(tmp_path):
    upper, lower = picture(GOOD).axes
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["1", "2", "4", "8"]
    assert [float(y) for y in upper.get_lines()[-2].get_ydata()] == [row.step for row in GOOD.rows]
    # The limit is drawn where it is near: 8 MiB beside 4 MB.
    assert any("a rank's memory" in text.get_text() for text in lower.texts)
    far = picture(replace(GOOD, memory_bytes=1 << 40)).axes[1]
    assert not any("a rank's memory" in text.get_text() for text in far.texts)
    write_picture(GOOD, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes()[:4] == b"\x89PNG"
