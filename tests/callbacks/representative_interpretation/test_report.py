import base64
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from fulgurite.callbacks.representative_interpretation.drift import Snapshot
from fulgurite.callbacks.representative_interpretation.figures import draw_groups, draw_history, picture
from fulgurite.callbacks.representative_interpretation.page import render
from fulgurite.callbacks.representative_interpretation.report import summary_table, to_json, write_report
from fulgurite.callbacks.representative_interpretation.sampling import Sample

EVIL = "<script>alert(\"1\")</script> & 'two'"


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
        self.text += data

    def all(self, name):
        return [value for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def history(surveyed):
    light = [Snapshot(n, 10 * n, "light", "1", "", (), {"coverage": 0.8 + n / 30, "planes": 4.0}) for n in range(3)]
    light[2].values["jaccard"] = 0.7
    return [*light, surveyed.snapshot]


@pytest.fixture(scope="module")
def written(surveyed, history, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("run") / "report", surveyed, history, notes=[EVIL])


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text())


def test_the_folder_holds_the_report(written):
    assert written.name == "report.html"
    assert sorted(os.listdir(written.parent)) == ["groups.json", "groups.png", "history.png", "report.html"]


def test_the_page_needs_nothing_but_itself(page, written):
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(source.startswith("data:image/") for source in page.all("src"))
    assert all(link.startswith("#") for link in page.all("href"))
    assert re.findall(r"(?:src|href)=\"(?!data:|#)|url\((?!#)|@import|https?://", written.read_text()) == []
    assert len(written.read_bytes()) < 2e6


def test_links_lead_to_groups_and_ids_are_unique(page, surveyed):
    ids = [name for name in page.all("id") if name.startswith("class-")]
    assert len(ids) == len(set(ids)) == len(surveyed.views)
    assert {link[1:] for link in page.all("href")} == set(ids)


def test_texts_from_outside_are_escaped(page, written):
    assert EVIL in page.text
    assert "<b>standing</b>" in page.text
    assert "<b>standing" not in written.read_text()


def test_the_page_says_what_was_found(page, surveyed):
    assert "Full pass after epoch 3" in page.text
    assert "200 of 400 images" in page.text
    for clue in surveyed.clues:
        assert clue.text in page.text
    for note in surveyed.notes:
        assert note in page.text
    for word in ("Groups", "Numbers", "From pass to pass", "Where the network was cut", "Held-out purity"):
        assert word in page.text
    for row in surveyed.groups.cuts:
        assert row.name in page.text
        assert row.verdict in page.text


def test_every_group_shows_its_images_with_maps(written, surveyed):
    for section, view in zip(
        re.findall(r"<section.*?</section>", written.read_text(), flags=re.DOTALL), surveyed.views, strict=True
    ):
        spot = any(
            (clue.label, clue.number, clue.kind) == (view.found.label, view.number, "spot") for clue in surveyed.clues
        )
        assert section.count('class="map"') == len(view.shown) + 1 + spot * len(view.pasted)  # and the mean map
        assert f"covers {view.found.own}" in section
        first = re.search(r'class="pic centre".*?src="data:image/png;base64,([^"]*)"', section, flags=re.DOTALL)
        shown = Image.open(io.BytesIO(base64.b64decode(first[1])))
        np.testing.assert_array_equal(np.asarray(shown), view.shown[0].pixels)


def test_json_has_no_nan_and_repeats_itself(written, surveyed, history):
    told = json.loads((written.parent / "groups.json").read_text(), parse_constant=pytest.fail)
    assert told["groups"] == json.loads(json.dumps(surveyed.groups.to_dict()))
    assert [alarm["kind"] for alarm in told["alarms"]] == [clue.kind for clue in surveyed.clues]
    assert told["notes"][0] == EVIL
    assert to_json(surveyed, history, notes=[EVIL]) == (written.parent / "groups.json").read_text()
    assert "seconds" not in (written.parent / "groups.json").read_text()


def test_an_older_history_is_removed(surveyed, tmp_path):
    (tmp_path / "history.png").write_text("old")
    write_report(tmp_path, surveyed, [surveyed.snapshot])
    assert not (tmp_path / "history.png").exists()
    assert "From pass to pass" not in (tmp_path / "report.html").read_text()


def test_without_labels_names_or_held_out_images(surveyed):
    sample = Sample(surveyed.sample.images, None, 200)
    groups = replace(surveyed.groups, found=tuple(replace(one, label_mix=None) for one in surveyed.groups))
    bare = replace(surveyed, sample=sample, groups=groups, held_out=(), clues=(), class_names=(), pairs=(), before=None)
    text = Page(render(bare, [bare.snapshot])).text
    assert "class 2" in text
    assert "label purity" not in text.split("Words")[0].lower().replace("least label purity", "")


def test_a_failed_write_leaves_the_old_report(surveyed, history, tmp_path, monkeypatch):
    report = write_report(tmp_path, surveyed, history)
    before = report.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("fulgurite.callbacks.representative_interpretation.report.write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, surveyed, history, notes=["new"])
    assert report.read_bytes() == before


def test_the_table_for_the_terminal(surveyed):
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(summary_table(surveyed))
    text = console.export_text()
    assert re.search(r"Alarms +1 ", text)
    assert "Held-out purity" in text


def test_pictures_show_every_group(surveyed):
    figure = draw_groups(surveyed, members=5)
    pixels = picture(figure)
    assert pixels.dtype == np.uint8
    names = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert sum(name.startswith("group ") for name in names) == len(surveyed.views)
    assert names.count("look at this one") == len({(clue.label, clue.number) for clue in surveyed.clues})
    images = figure.axes[0].get_images()
    assert len(images) == sum(
        2 + (view.mean_rest is not None) + min(5, sum(shown.role != "left out" for shown in view.shown))
        for view in surveyed.views
    )


def test_no_group_and_one_pass_can_be_drawn(surveyed):
    empty = replace(surveyed, views=())
    assert draw_groups(empty).texts[0].get_text() == "no group was found"
    assert len(draw_history([surveyed.snapshot]).axes) == 3


def test_many_groups_stay_one_picture(surveyed):
    views = surveyed.views * 12
    names = [text.get_text() for text in draw_groups(replace(surveyed, views=views)).axes[0].texts]
    assert len(views) > 24
    assert sum(name.startswith("group ") for name in names) == 24


def test_photographs_are_shown_in_colour(fitted):
    from fulgurite.callbacks.representative_interpretation.pixels import Scale

    images = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    shown = Scale(images).pixels(images[0])
    assert (shown[..., 0] != shown[..., 1]).any()
