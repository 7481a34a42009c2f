import csv
import io
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from fulgurite.callbacks.seqpoint.headline import duration, headline, size
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.operators import epoch_table
from fulgurite.callbacks.seqpoint.plan import Plan, Projection
from fulgurite.callbacks.seqpoint.report import summary_table, write_report
from fulgurite.callbacks.seqpoint.spans import OperatorTime
from fulgurite.callbacks.seqpoint.summary import summarize

LENGTHS = [5, 9, 7, 20, 12, 14, 40, 33, 28]
EVIL = "<script>alert(\"1\")</script> & 'two'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "report"


@pytest.fixture(scope="module")
def given(make_log, make_plan, make_trace, folder):
    """Everything that a report can hold."""
    log = make_log(LENGTHS)
    plan = make_plan(log).with_measured({(4, n, 1): 1e-3 * n for n in (7, 14, 33)})
    traces = {
        number: [
            make_trace(
                {"aten::mm": 0.02, EVIL: 0.01},
                label=f"step-{number}",
                shape=point.shape,
                peak=1e6,
                path=folder / "traces" / f"step-{number}.json.gz",
            )
        ]
        for number, point in enumerate(plan.points)
    }
    return {
        "plan": plan,
        "log": log,
        "following": make_log(LENGTHS, epoch=1),
        "projection": plan.project(),
        "traces": traces,
        "table": epoch_table(traces, plan),
        "notes": [EVIL],
    }


@pytest.fixture(scope="module")
def written(given, folder):
    """The path of a whole report, for tests that only read it."""
    return write_report(folder, **given)


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] != "style":
            self.text += data


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def test_the_folder_holds_everything_and_can_be_read_back(given, folder, written):
    names = {entry.name for entry in folder.iterdir()}
    pictures = {"step_time.png", "timeline.png", "operators.png", "memory.png"}
    assert names == {"report.html", "plan.json", "steps.csv", "steps_following.csv", "operators.csv"} | pictures
    assert written == folder / "report.html"
    assert Plan.load(folder / "plan.json") == given["plan"]
    assert np.array_equal(EpochLog.load_csv(folder / "steps.csv").seconds, given["log"].seconds)
    with open(folder / "operators.csv", newline="", encoding="utf-8") as file:
        assert sum(float(row["share"]) for row in csv.DictReader(file) if row["kind"] == "operator") == pytest.approx(1)
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_nothing_but_itself(written):
    page = read(written)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert references
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in references)
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"https?:", text)
    assert not re.search(r"url\((?!#)", text)
    assert page.tags.count("svg") == 4
    # Both are there, so that the page follows the reader's setting.
    assert "prefers-color-scheme: dark" in text
    assert "var(--ink)" in text


def test_every_reference_inside_the_page_is_unique(written):
    page = read(written)
    ids = [value for name, value in page.attributes if name == "id"]
    referred = {value[1:] for name, value in page.attributes if name == "xlink:href" and value.startswith("#")}
    assert referred <= set(ids)
    # Glyphs are the same drawing wherever they are; everything else has an id of its own.
    others = [value for value in ids if not value.startswith("DejaVu")]
    assert len(others) == len(set(others))


def test_text_from_outside_is_escaped(written):
    page = read(written)
    assert "script" not in page.tags
    assert page.text.count("<script>alert") >= 2  # the note and the operator's name, as text


def test_the_headline_comes_first_and_names_its_base(given, folder, written):
    text = read(written).text
    words = [
        "Projected epoch",
        "Actual epoch",
        "Logged epoch",
        "Serial reduction",
        "Critical-path reduction",
        "Step time and shape",
    ]
    assert [text.index(word) for word in words] == sorted(text.index(word) for word in words)
    assert text.count("against the logged epoch") >= 2
    assert duration(given["projection"].total) in text
    assert "traces/step-1.json.gz" in text
    assert str(folder) not in text


def test_a_second_report_replaces_the_first_one_wholly(given, tmp_path):
    write_report(tmp_path / "report", **given)
    write_report(tmp_path / "report", **(given | {"table": None, "traces": {}, "following": None}))
    names = {entry.name for entry in (tmp_path / "report").iterdir()}
    assert names == {"report.html", "plan.json", "steps.csv", "step_time.png", "timeline.png", "memory.png"}


def test_without_traces_the_page_says_so(given, tmp_path):
    text = read(write_report(tmp_path / "report", **(given | {"table": None, "traces": {}}))).text
    assert "No step was traced, so there is no operator table" in text
    assert "Memory itself was not measured" in text


def test_a_point_without_a_trace_is_named(given, make_trace, tmp_path):
    traces = {0: given["traces"][0], 2: given["traces"][2]}
    table = epoch_table(traces, given["plan"])
    text = read(write_report(tmp_path / "report", **(given | {"traces": traces, "table": table}))).text
    assert "No trace was kept for point 1" in text


def test_a_selector_without_an_interval_says_so(given, make_plan, tmp_path):
    plan = make_plan(given["log"], selector="paper", error=math.nan)
    projection = Projection(0.2, math.nan, math.nan)
    text = read(write_report(tmp_path / "report", **(given | {"plan": plan, "projection": projection}))).text
    assert "without an interval: the selector paper gives none" in text
    assert "nan" not in text


def test_a_refused_plan_says_why_and_projects_nothing(given, make_plan, tmp_path):
    refusal = "shape explains 3 % of the variance of step time: nothing is projected"
    plan = make_plan(given["log"], refusal=refusal, explained=0.03)
    notes = [refusal]
    text = read(write_report(tmp_path / "report", **(given | {"plan": plan, "projection": None, "notes": notes}))).text
    assert text.count(refusal) == 1
    assert "shape explains too little of the step times" in text
    assert "the projection is" not in text


@pytest.mark.parametrize("lengths", [[20], [20] * 7, [20, 21]])
def test_one_step_and_one_shape_give_a_report(make_log, make_plan, tmp_path, lengths):
    log = make_log(lengths)
    plan = make_plan(log, points=1, explained=math.nan, error=math.nan)
    path = write_report(tmp_path, plan=plan, log=log, following=None, projection=None, table=None, traces={})
    text = read(path).text
    assert "explains nothing here" in text
    assert "nan" not in text


def test_a_gpu_report_lists_kernels(given, tmp_path):
    kernels = (OperatorTime("gemm_kernel<float>", 0.02, 1), OperatorTime("(device idle)", 0.01, 0))
    traces = {number: [replace(found[0], kernels=kernels)] for number, found in given["traces"].items()}
    table = epoch_table(traces, given["plan"])
    text = read(write_report(tmp_path / "report", **(given | {"traces": traces, "table": table}))).text
    assert "gemm_kernel<float>" in text
    assert "GPU time of each operator" in text


def test_a_folder_that_cannot_be_written_is_an_error_and_stays_empty(given, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_report(tmp_path / "file" / "report", **given)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_leaves_no_half_written_file(given, tmp_path, monkeypatch):
    first = write_report(tmp_path / "report", **given)
    before = {path.name: path.read_bytes() for path in first.parent.iterdir()}
    replaced = os.replace

    def full(source, target):
        if str(target).endswith("report.html"):
            raise OSError(28, "No space left on device")
        return replaced(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(first.parent, **(given | {"notes": ["another"]}))
    assert {path.name for path in first.parent.iterdir()} == set(before)
    assert first.read_bytes() == before["report.html"]


def test_the_terminal_shows_the_same_numbers(given):
    shown = {name: given[name] for name in ("plan", "log", "following", "projection", "traces")}
    summary = summarize(**shown, straggler=0.125)
    console = Console(width=120, file=io.StringIO(), legacy_windows=False)
    console.print(summary_table(given["plan"], summary))
    text = console.file.getvalue()
    for tile in headline(given["plan"], summary):
        assert tile.name in text
        assert tile.value in text
    assert "12.5%" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 ms"),
        (1.5e-6, "0.00 ms"),
        (0.01234, "12.3 ms"),
        (0.9999, "1000 ms"),
        (1.5, "1.50 s"),
        (99.94, "99.9 s"),
        (99.96, "1 min 40 s"),
        (3599.6, "1 h 00 min"),
        (7261, "2 h 01 min"),
        (math.nan, "unknown"),
    ],
)
def test_durations_are_written_as_people_write_them(seconds, text):
    assert duration(seconds) == text


def test_sizes_are_written_as_people_write_them():
    assert [size(n) for n in (0, 999, 1000, 1.234e6, 45.67e9)] == ["0 B", "999 B", "1.00 kB", "1.23 MB", "45.7 GB"]
