"""The table of cuts for people."""

from fulgurite.callbacks.representative_interpretation.cut_rows import CutRow, table_of


def test_what_is_not_known_is_a_dash():
    rows = [
        CutRow("features.3", (8, 14, 14), True, False, 0.5, 0.875, 12.25, 1.0, "chosen"),
        CutRow("x", None, None, None, None, float("nan"), None, None, "not measured"),
    ]
    lines = table_of(rows).splitlines()
    assert lines[0].split() == ["cut", "shape", "covers", "purity", "planes", "exact", "verdict"]
    assert lines[1].split() == ["features.3", "8×14×14", "50.0%", "87.5%", "12.2", "100.0%", "chosen"]
    assert lines[2].split() == ["x", "–", "–", "–", "–", "–", "not", "measured"]
