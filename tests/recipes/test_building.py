import pytest

from fulgurite.recipes.building import build, train_batches
from fulgurite.recipes.library import RecipeError

RECIPE = """
seed_everything: 1
model:
  class_path: DynamicNodeClassifier
  init_args: {network: {class_path: WDGCN, init_args: {in_channels: 2, hidden_channels: [4]}}}
data:
  class_path: TemporalGraph
  init_args:
    generator:
      class_path: fulgurite.data.transaction_graph.TransactionGraph
      init_args: {num_nodes: 60, num_steps: 20}
    task: node
trainer: {accelerator: cpu, devices: 1, max_epochs: 7, callbacks: [{class_path: LearningRateMonitor}]}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return "mine.yaml"


def test_what_is_built_has_nothing_around_its_steps_and_says_nothing(recipe, caplog, tmp_path):
    for name in ("pytorch", "fabric"):
        caplog.set_level("INFO", f"lightning.{name}")
    cli = build(recipe, ["--trainer.accumulate_grad_batches=2"])
    assert (cli.trainer.max_epochs, cli.trainer.accumulate_grad_batches) == (1, 2)
    assert cli.trainer.logger is None
    assert cli.trainer.checkpoint_callback is None
    assert "LearningRateMonitor" not in {type(callback).__name__ for callback in cli.trainer.callbacks}
    assert [batch.num_nodes for batch in train_batches(cli)] == [60]
    told = [record.getMessage() for record in caplog.records if record.name.startswith("lightning")]
    assert [message.partition(":")[0] for message in told] == ["TemporalGraph"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_several_processes_are_refused(recipe):
    with pytest.raises(RecipeError, match=r"mine\.yaml uses 2 processes; add --trainer\.devices=1"):
        build(recipe, ["--trainer.devices=2"])
