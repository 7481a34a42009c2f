import sys

import pytest

from fulgurite.plugins.registry import Plugin, PluginError, Registry, discover, load, nearest


def test_our_plugins_are_found_and_every_component_exists():
    registry = discover()
    assert registry.problems == ()
    assert "seqpoint" in {plugin.name for plugin in registry.plugins}
    for name, target in registry.components.items():
        assert load(target).__name__ == name


def test_a_duplicate_name_is_refused_and_reported():
    registry = Registry.from_plugins([Plugin("a", "one"), Plugin("a", "two")])
    assert [plugin.summary for plugin in registry.plugins] == ["one"]
    assert "installed twice" in registry.problems[0]


def test_a_taken_short_name_is_refused_and_reported():
    registry = Registry.from_plugins(
        [Plugin("a", "", components={"Beep": "a.b:Beep"}), Plugin("b", "", components={"Beep": "b.b:Beep"})]
    )
    assert registry.components == {"Beep": "a.b:Beep"}
    assert "Beep" in registry.problems[0]


def test_a_taken_strategy_name_is_refused_and_reported():
    registry = Registry.from_plugins(
        [Plugin("a", "", strategies={"beep": "a.b:Beep"}), Plugin("b", "", strategies={"beep": "b.b:Beep"})]
    )
    assert registry.strategies == {"beep": "a.b:Beep"}
    assert "beep" in registry.problems[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "not a name"},
        {"name": "a", "components": {"Beep": "a.b.Beep"}},
        {"name": "a", "strategies": {"beep": "a.b.Beep"}},
        {"name": "a", "strategies": {"Beep": "a.b:Beep"}},
        {"name": "a", "commands": "no colon"},
        {"name": "a", "modules": ("a/b",)},
        {"name": "a", "recipes": "a..b"},
    ],
)
def test_a_malformed_plugin_says_what_is_wrong(fields):
    with pytest.raises(
        PluginError, match=r"not an identifier|expected 'package|expected lower-case|dotted module name"
    ):
        Plugin(**{"summary": "", **fields})


def test_a_broken_plugin_is_reported_and_the_others_stay(tmp_path, monkeypatch):
    package = tmp_path / "broken-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[fulgurite.plugins]\nbroken = no_such_module_anywhere:PLUGIN\nodd = math:pi\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = discover()
    assert "seqpoint" in {plugin.name for plugin in registry.plugins}
    assert any("'broken'" in problem and "ModuleNotFoundError" in problem for problem in registry.problems)
    assert any("'odd'" in problem and "float" in problem for problem in registry.problems)
    assert "no_such_module_anywhere" not in sys.modules


def test_a_recipe_package_that_is_not_there_is_said():
    with pytest.raises(PluginError, match="not a package"):
        Plugin("a", "", recipes="json.tool").recipe_folder()


def test_nearest_prefers_the_near_and_lists_the_few():
    assert nearest("translaton", ["seqpoint", "translation"]) == "; did you mean 'translation'?"
    assert nearest("zzz", []) == ""
