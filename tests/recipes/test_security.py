"""A corpus of hostile recipes and checkpoints: refused, and nothing of theirs is imported or run."""

import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch

from fulgurite.recipes.cli import main

# A module that leaves a file behind when it is imported, and names that reach dangerous things by detours.
EVIL = "from pathlib import Path\nPath({marker!r}).write_text('imported')\nclass Model: pass\nclass Evil: pass\n"
MODEL = "model: {class_path: Translator, init_args: {network: {class_path: GNMT, init_args: {hidden_size: 8}}}}\n"

CALLBACKS = [
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "builtins.eval",
    "torch.os.system",
    "torch.hub.load",
    "torch.load",
    "torch.nn.modules.module.torch.hub.load",
    "torch.optim.optimizer.os.system",
    "torch.utils.cpp_extension.load",
    "lightning.pytorch.callbacks.model_checkpoint.shutil.rmtree",
    "lightning.pytorch.callbacks.model_checkpoint.os.system",
    "lightning.pytorch.loggers.csv_logs.os.remove",
    "lightning.pytorch.cli.LightningCLI",
    "lightning.os.system",
    "torchvision.datasets.MNIST",
    "torchmetrics.text.bert.BERTScore",
    "fulgurite.recipes.cli.main",
    "fulgurite.recipes.check.subprocess.run",
    "fulgurite.plugins.registry.load",
    "fulgurite.callbacks.random_state.np.load",
    "jsonargparse.set_parsing_settings",
    "evil_module.Evil",
    "evil_package.inner.Evil",
    "..evil_module.Evil",
    "evil_module",
]
VALUES = {
    "callback": "trainer: {{callbacks: [{{class_path: {path}, init_args: {{command: 'echo x > {marker}'}}}}]}}\n",
    "callback without options": "trainer: {{callbacks: [{path}]}}\n",
    "logger": "trainer: {{logger: {{class_path: {path}, init_args: {{command: 'echo x > {marker}'}}}}}}\n",
    "optimizer": "optimizer: {{class_path: {path}, init_args: {{lr: 0.1}}}}\n",
    "model": "model: {{class_path: {path}, init_args: {{command: 'echo x > {marker}'}}}}\n",
    "data": "data: {{class_path: {path}, init_args: {{command: 'echo x > {marker}'}}}}\n",
    "deep inside": "model: {{class_path: Translator, init_args: {{network: {{class_path: {path}}}}}}}\n",
    "dict_kwargs": "model: {{class_path: Translator, dict_kwargs: {{x: {{class_path: {path}}}}}}}\n",
    "callable": "trainer: {{callbacks: [{{class_path: SeqPoint, init_args: {{shape_fn: {{class_path: {path}}}}}}}]}}\n",
    "ours": "expect: {{x: {{class_path: {path}}}}}\n",
}


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Path:
    """A folder on the import path whose modules betray themselves; gives the file that must never appear."""
    marker = tmp_path / "marker"
    modules = tmp_path / "modules"
    (modules / "evil_package").mkdir(parents=True)
    text = EVIL.format(marker=str(marker))
    (modules / "evil_module.py").write_text(text)
    (modules / "evil_package" / "__init__.py").write_text(text)
    (modules / "evil_package" / "inner.py").write_text(text)
    monkeypatch.syspath_prepend(modules)
    monkeypatch.chdir(tmp_path)
    return marker


def refuse(args: list[str], capsys) -> str:
    """Run a command, assert that it fails with one line, and give that line."""
    code = main(args)
    output = capsys.readouterr()
    lines = [line for line in (output.out + output.err).splitlines() if line.startswith(("fault", "fulgurite:"))]
    assert code != 0
    assert len(lines) == 1, output
    return lines[0]


def assert_untouched(trap: Path) -> None:
    assert not trap.exists(), "something of the recipe's was run"
    assert not [name for name in sys.modules if name.startswith("evil")]


@pytest.mark.parametrize("place", VALUES)
@pytest.mark.parametrize("path", CALLBACKS)
def test_a_class_outside_the_allow_list_is_refused(path, place, trap, capsys):
    recipe = trap.parent / "hostile.yaml"
    text = VALUES[place].format(path=path, marker=trap)
    recipe.write_text(text if "model:" in text else text + MODEL)
    line = refuse(["check", str(recipe)], capsys)
    assert re.search("is refused|not a dotted path|no class|no module|has no|expected a comparison", line)
    assert_untouched(trap)


def test_the_model_that_hostile_parts_are_put_beside_is_itself_accepted(trap, capsys):
    recipe = trap.parent / "mine.yaml"
    recipe.write_text(MODEL)
    assert "train_dataloader" in refuse(["check", str(recipe)], capsys)  # all that is wrong is that it has no data


@pytest.mark.parametrize("path", CALLBACKS)
def test_the_command_line_is_held_to_the_same_list(path, trap, capsys):
    recipe = trap.parent / "mine.yaml"
    recipe.write_text(MODEL)
    reasons = r"is refused|: got \S+, expected|Unexpected import path|Problem with given class_path"
    for words in (["run", str(recipe), f"--trainer.callbacks={path}"], ["fit", f"--model={path}"]):
        assert re.search(reasons, refuse(words, capsys))
    assert_untouched(trap)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch {marker}']",
        "trainer: !!python/object/new:os.system ['touch {marker}']",
        "model: !!python/module:evil_module",
        "model: !!python/name:evil_module.Model",
        "trainer: {{logger: !evil_module.Model {{}}}}",
        "weights_only: false\nmodel: {{class_path: Translator}}",
        "ckpt_path: https://localhost/evil.ckpt\nmodel: {{class_path: Translator}}",
        "ckpt_path: memory://evil.ckpt\nmodel: {{class_path: Translator}}",
        "weights_only: null\nmodel: {{class_path: Translator}}",
        "ckpt_path: registry:org/model\nmodel: {{class_path: Translator}}",
        "ckpt_path: Registry\nmodel: {{class_path: Translator}}",
        "ckpt_path: .\nmodel: {{class_path: Translator}}",
        "trainer: {{model_registry: org/model}}\nmodel: {{class_path: Translator}}",
        "model: other.yaml",
        "trainer: other.yaml",
    ],
)
def test_tags_and_remote_checkpoints_are_refused(text, trap, capsys):
    recipe = trap.parent / "hostile.yaml"
    recipe.write_text(text.format(marker=trap))
    refuse(["check", str(recipe)], capsys)
    assert_untouched(trap)


@pytest.mark.parametrize(
    "url", ["http://localhost:9/r.yaml", "memory://r.yaml", "filecache::http://localhost:9/r.yaml"]
)
@pytest.mark.parametrize("how", ["run {}", "check {}", "fit --config {}", "fit --config={}"])
def test_a_config_from_elsewhere_is_refused(url, how, trap, capsys):
    assert "remote" in refuse(how.format(url).split(), capsys)


def test_a_nested_config_from_elsewhere_is_not_read(trap, capsys):
    import fsspec

    with fsspec.open("memory://model.yaml", "w") as file:
        file.write("class_path: evil_module.Model\n")
    refuse(["fit", "--model", "memory://model.yaml"], capsys)
    assert_untouched(trap)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"echo x > {self.marker}",)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_that_names_a_module_is_refused(command, trap, capsys):
    path = trap.parent / "hostile.ckpt"
    torch.save({"hyper_parameters": {"_class_path": "evil_module.Model", "x": 1}, "state_dict": {}}, path)
    recipe = trap.parent / "mine.yaml"
    recipe.write_text(MODEL)
    assert "evil_module.Model is refused" in refuse(
        [command, "--config", str(recipe), "--ckpt_path", str(path)], capsys
    )
    assert_untouched(trap)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_with_a_pickle_bomb_is_refused(legacy, trap, capsys):
    path = trap.parent / "hostile.ckpt"
    if legacy:
        path.write_bytes(pickle.dumps({"hyper_parameters": Bomb(trap)}))
    else:
        torch.save({"state_dict": {}, "hyper_parameters": {}, "callbacks": {"x": Bomb(trap)}}, path)
    recipe = trap.parent / "mine.yaml"
    recipe.write_text(MODEL)
    assert "weights_only" in refuse(["fit", "--config", str(recipe), "--ckpt_path", str(path)], capsys)
    assert_untouched(trap)


FUNCTIONS = {
    "fulgurite.data.librispeech.write_librispeech": "root: {marker}",
    "torch.nn.attention._fa3.register_flash_attention_fa3": "module_path: evil_module",
    "torch.nn.init.ones_": "tensor: 1",
}


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("path", FUNCTIONS)
def test_a_function_is_never_called_with_a_recipe_s_arguments(path, quoted, trap, capsys):
    options = FUNCTIONS[path].format(marker=trap)
    value = f"{{class_path: {path}, init_args: {{{options}}}}}"
    value = f"'{value}'" if quoted else value  # YAML in a string is read by jsonargparse alone
    recipe = trap.parent / "hostile.yaml"
    recipe.write_text(f"trainer:\n  callbacks: [{{class_path: SeqPoint, init_args: {{shape_fn: {value}}}}}]\n" + MODEL)
    refuse(["check", str(recipe)], capsys)
    assert_untouched(trap)


@pytest.mark.parametrize("how", ["LambdaCallback", "lightning.pytorch.callbacks.LambdaCallback"])
def test_a_callback_that_calls_what_it_is_given_is_refused(how, trap, capsys):
    recipe = trap.parent / "hostile.yaml"
    inner = "{class_path: torch.nn.init.ones_}"
    recipe.write_text(f"trainer: {{callbacks: [{{class_path: {how}, init_args: {{setup: {inner}}}}}]}}\n" + MODEL)
    refuse(["check", str(recipe)], capsys)
    assert_untouched(trap)


@pytest.mark.parametrize("words", ["-c{}", "--conf {}", "--confi={}"])
def test_a_shortened_option_does_not_pass_by_the_reading_of_recipes(words, trap, capsys):
    recipe = trap.parent / "hostile.yaml"
    recipe.write_text(MODEL + "weights_only: false\n")
    refuse(["fit", *words.format(recipe).split()], capsys)


def test_allow_import_opens_one_module_and_no_other(trap, capsys):
    recipe = trap.parent / "mine.yaml"
    recipe.write_text("model: {class_path: evil_package.Model}\n")
    assert "evil_package" in refuse(["check", "--allow-import", "evil_module", str(recipe)], capsys)
    assert_untouched(trap)
    line = refuse(["check", "--allow-import", "evil_package", str(recipe)], capsys)
    assert "refused" not in line  # it is no LightningModule, which is another fault
    assert trap.exists()
    for name in [name for name in sys.modules if name.startswith("evil")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["", "a b", "a/b.py", "*"])
def test_allow_import_takes_module_names_only(name, trap, capsys):
    recipe = trap.parent / "mine.yaml"
    recipe.write_text(MODEL)
    assert "--allow-import" in refuse(["check", str(recipe), f"--allow-import={name}"], capsys)


def test_the_policy_ends_with_the_command(trap, capsys):
    from jsonargparse._common import parsing_settings

    before = dict(parsing_settings)
    refuse(["fit", "--model=os.system"], capsys)
    assert parsing_settings == before


MMSEG = """
model:
  class_path: MmsegSegmenter
  init_args:
    config: {config}
"""
HEAD = "{type: FCNHead, in_channels: 64, in_index: 3, channels: 8, num_classes: 3}"
MMSEG_CONFIGS = {
    "type": "{type: evil_module.Model}",
    "a dotted type inside": "{type: EncoderDecoder, backbone: {type: evil_module.Model}, decode_head: " + HEAD + "}",
    "a scope": "{type: EncoderDecoder, _scope_: evil_module, backbone: {type: ResNet, depth: 18}}",
    "a scoped name": "{type: evil_package.Model, backbone: {type: ResNet, depth: 18}}",
    "custom_imports": "{model: {type: EncoderDecoder}, custom_imports: {imports: [evil_module]}}",
    "one custom import": "{model: {type: EncoderDecoder}, custom_imports: {imports: evil_module}}",
    "custom_imports inside": "{type: EncoderDecoder, custom_imports: {imports: [evil_module]}}",
    "a .py file": "modules/evil_module.py",
    "a .py file by its whole path": "{root}/modules/evil_module.py",
    "out of the shipped folder": "../../../modules/evil_module",
    "a remote file": "https://localhost:9/evil",
    "_base_": "{_base_: modules/evil_module.py}",
    "weights by URL": "{type: EncoderDecoder, pretrained: 'https://localhost:9/x.pth', backbone: {type: ResNet}}",
    "load_from": "{load_from: 'https://localhost:9/x.pth', model: {type: EncoderDecoder}}",
    "init_cfg": "{type: EncoderDecoder, init_cfg: {type: Pretrained, checkpoint: 'http://localhost:9/x.pth'}}",
    "a pickle as class weights": (
        "{type: EncoderDecoder, decode_head: {type: FCNHead, loss_decode: "
        "{type: CrossEntropyLoss, class_weight: hostile.pkl}}}"
    ),
    "a function": "{type: os.system, command: 'echo x > {root}/marker'}",
    "a registered thing that fetches": "{type: EncoderDecoder, backbone: {type: VPD}, decode_head: " + HEAD + "}",
    "a hub of models": "{type: EncoderDecoder, backbone: {type: TIMMBackbone, model_name: 'hf-hub:x/y'}}",
}


@pytest.mark.parametrize("what", MMSEG_CONFIGS)
def test_a_hostile_config_of_mmseg_is_refused(what, trap, capsys):
    pytest.importorskip("mmseg")
    (trap.parent / "hostile.pkl").write_bytes(pickle.dumps(Bomb(trap)))
    recipe = trap.parent / "hostile.yaml"
    recipe.write_text(MMSEG.replace("{config}", MMSEG_CONFIGS[what].replace("{root}", str(trap.parent))))
    line = refuse(["check", str(recipe)], capsys)
    assert re.search("refused|remote|ships no config|write the config out", line), line
    assert_untouched(trap)


def test_weights_of_mmseg_with_a_pickle_bomb_are_refused(trap, capsys):
    pytest.importorskip("mmseg")
    torch.save({"state_dict": Bomb(trap)}, trap.parent / "bomb.pth")
    recipe = trap.parent / "hostile.yaml"
    backbone = "{type: ResNetV1c, depth: 18, stem_channels: 8, base_channels: 8}"
    config = f"{{type: EncoderDecoder, pretrained: bomb.pth, backbone: {backbone}, decode_head: {HEAD}}}"
    recipe.write_text(MMSEG.replace("{config}", config))
    assert "bomb.pth: cannot be read" in refuse(["check", str(recipe)], capsys)
    assert_untouched(trap)


def test_allow_import_opens_a_module_to_a_config_of_mmseg(trap, capsys):
    pytest.importorskip("mmseg")
    recipe = trap.parent / "mine.yaml"
    recipe.write_text(MMSEG.replace("{config}", MMSEG_CONFIGS["custom_imports"]))
    assert "--allow-import evil_module" in refuse(["check", str(recipe)], capsys)
    assert_untouched(trap)
    refuse(["check", "--allow-import", "evil_module", str(recipe)], capsys)  # the model lacks its keys
    assert trap.exists()
    for name in [name for name in sys.modules if name.startswith("evil")]:
        del sys.modules[name]
