import math
import sys

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch import multiprocessing
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from fulgurite.models import GNMT, TranslationTransformer, Translator
from fulgurite.models.translation import TranslationNetwork
from fulgurite.models.translation.network import Memory

SIZES = {"source_vocab_size": 20, "target_vocab_size": 20}


def batch(seed: int, size: int = 4, source: int = 6, target: int = 7) -> dict[str, torch.Tensor]:
    """A batch as fulgurite.data gives it; the longest sentences fill it."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, source + 1, (size,), generator=generator)
    ends = torch.randint(2, target, (size,), generator=generator)
    lengths[0], ends[0] = source, target - 1
    ids = torch.randint(4, 20, (size, source), generator=generator)
    labels = torch.randint(3, 20, (size, target), generator=generator)  # 3: some <unk>
    labels[:, 0] = 1
    labels[torch.arange(size), ends] = 2
    return {
        "source": ids.masked_fill(torch.arange(source) >= lengths[:, None], 0),
        "source_lengths": lengths,
        "target": labels.masked_fill(torch.arange(target) > ends[:, None], 0),
    }


class Batches(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader([batch(0), batch(1, size=3)], batch_size=None)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def trainer(tmp_path, **options) -> Trainer:
    options = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False} | options
    return Trainer(
        accelerator="cpu", devices=1, enable_progress_bar=False, default_root_dir=tmp_path, num_sanity_val_steps=0,
        **options,
    )  # fmt: skip


class Recalling(TranslationNetwork):
    """Knows by heart which token follows which, and says so with a certainty of 1 : ``other`` for each wrong token."""

    def __init__(self, follows: dict[int, int]):
        super().__init__(**SIZES)
        self.follows = follows

    def encode(self, source, source_lengths):
        return Memory(source, source > 0)

    def decode(self, target, memory, state=None):
        said = target.clone().apply_(lambda token: self.follows.get(token, 2))
        return functional.one_hot(said, 20).float() * 4, None


@torch.no_grad()
def by_hand(network: TranslationNetwork, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Loss and token accuracy, a token at a time."""
    losses, hits = [], []
    for one in batches:
        log_probs = network(one["source"], one["source_lengths"], one["target"][:, :-1]).log_softmax(-1)
        for row in range(len(one["source"])):
            for t, label in enumerate(one["target"][row, 1:].tolist()):
                if label != 0:
                    losses.append(-float(log_probs[row, t, label]))
                    hits.append(label != 3 and int(log_probs[row, t].argmax()) == label)
    return {"loss": sum(losses) / len(losses), "token_accuracy": sum(hits) / len(hits)}


@pytest.mark.parametrize(("stage", "run"), [("val", Trainer.validate), ("test", Trainer.test)])
def test_metrics_are_means_over_all_tokens(tmp_path, stage, run):
    torch.manual_seed(0)
    network = GNMT(**SIZES, hidden_size=8)
    (got,) = run(trainer(tmp_path), Translator(network), datamodule=Batches(), verbose=False)
    expected = by_hand(network.eval(), [batch(0), batch(1, size=3)])
    assert got[f"{stage}/loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert got[f"{stage}/token_accuracy"] == pytest.approx(expected["token_accuracy"])
    assert got[f"{stage}/perplexity"] == pytest.approx(math.exp(expected["loss"]), rel=1e-5)
    assert 0 <= got[f"{stage}/bleu"] <= 1


def measure(tmp_path, network: TranslationNetwork, target: list[int]) -> dict[str, float]:
    """Metrics of a validation with one pair."""
    pair = {"source": torch.tensor([[5]]), "source_lengths": torch.tensor([1]), "target": torch.tensor([target])}
    (metrics,) = trainer(tmp_path).validate(Translator(network), DataLoader([pair], batch_size=None), verbose=False)
    return metrics


def test_right_sentence_has_bleu_1_and_accuracy_1(tmp_path):
    metrics = measure(tmp_path, Recalling({1: 5, 5: 6, 6: 7, 7: 8, 8: 2}), [1, 5, 6, 7, 8, 2, 0])
    assert metrics["val/token_accuracy"] == 1
    assert metrics["val/bleu"] == 1


def test_an_unknown_word_is_never_a_hit(tmp_path):
    """<unk> is predicted where <unk> is the label: 5 of the 6 tokens count, and no n-gram with it matches."""
    metrics = measure(tmp_path, Recalling({1: 3, 3: 5, 5: 6, 6: 7, 7: 8, 8: 2}), [1, 3, 5, 6, 7, 8, 2, 0])
    assert metrics["val/token_accuracy"] == pytest.approx(5 / 6)
    precisions = [4 / 5, 3 / 4, 2 / 3, 1 / 2]
    assert metrics["val/bleu"] == pytest.approx(math.prod(precisions) ** 0.25)


@pytest.mark.parametrize(
    ("wanted", "decoded"), [(0, []), (1, [7]), (2, [3, 7]), (3, [2, 5, 7]), (8, list(range(8))), (99, list(range(8)))]
)
def test_decoded_batches_are_spread(tmp_path, wanted: int, decoded: list[int]):
    translator = Translator(GNMT(**SIZES, hidden_size=8), decoded_batches=wanted)
    seen = []
    translator.forward = lambda source, lengths: seen.append(len(source) - 1) or torch.full((len(source), 1), 2)
    loader = DataLoader([batch(0, size=size + 1) for size in range(8)], batch_size=None)
    (metrics,) = trainer(tmp_path).validate(translator, loader, verbose=False)
    assert seen == decoded
    assert ("val/bleu" in metrics) == (wanted > 0)


def test_a_loader_without_a_length_is_decoded_from_its_start(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([batch(0, size=size + 1) for size in range(5)])

    translator = Translator(GNMT(**SIZES, hidden_size=8), decoded_batches=2)
    seen = []
    translator.forward = lambda source, lengths: seen.append(len(source)) or torch.full((len(source), 1), 2)
    trainer(tmp_path).validate(translator, DataLoader(Stream(), batch_size=None), verbose=False)
    assert seen == [1, 2]


def test_label_smoothing_and_padding_in_the_loss():
    torch.manual_seed(0)
    translator = Translator(GNMT(**SIZES, hidden_size=8), label_smoothing=0.2).eval()
    one = batch(0)
    log_probs = translator.network(one["source"], one["source_lengths"], one["target"][:, :-1]).log_softmax(-1)
    losses = []
    for row in range(4):
        for t, label in enumerate(one["target"][row, 1:].tolist()):
            if label:
                smoothed = torch.full((20,), 0.2 / 20)
                smoothed[label] += 0.8
                losses.append(-(smoothed * log_probs[row, t]).sum())
    torch.testing.assert_close(translator.loss(one), torch.stack(losses).mean())


@pytest.mark.parametrize("network", [GNMT, TranslationTransformer])
def test_learns_a_batch_by_heart(tmp_path, network):
    torch.manual_seed(0)
    one = batch(5, size=8)
    one["target"][one["target"] == 3] = 4
    translator = Translator(network(**SIZES, hidden_size=32, dropout=0.0), learning_rate=1e-2, warmup_steps=10)
    before = translator.loss(one).item()
    loader = DataLoader([one], batch_size=None)
    fit = trainer(tmp_path, max_epochs=80, check_val_every_n_epoch=80)
    fit.fit(translator, loader, loader)
    assert before > 2
    assert fit.callback_metrics["val/loss"] < 0.5
    assert fit.callback_metrics["val/token_accuracy"] == 1
    assert fit.callback_metrics["val/bleu"] == 1


def test_lengths_stay_on_the_cpu():
    moved = Translator(GNMT(**SIZES, hidden_size=8)).transfer_batch_to_device(batch(0), torch.device("meta"), 0)
    assert {name: value.device.type for name, value in moved.items()} == {
        "source": "meta", "target": "meta", "source_lengths": "cpu",
    }  # fmt: skip


def test_a_batch_beyond_the_vocabulary_stops_before_the_network(tmp_path):
    bad = batch(0)
    bad["target"][0, 1] = 20
    with pytest.raises(ValueError, match="target_vocab_size=20; give the network and the data the same size"):
        trainer(tmp_path).validate(Translator(GNMT(**SIZES, hidden_size=8)), DataLoader([bad], batch_size=None))


def test_predict_translates(tmp_path):
    rows = trainer(tmp_path).predict(Translator(GNMT(**SIZES, hidden_size=8), max_length=5), Batches())
    assert [len(ids) for ids in rows] == [4, 3]
    assert all(ids.shape[1] <= 5 for ids in rows)


@pytest.mark.parametrize("network", [GNMT, TranslationTransformer])
def test_bfloat16_run_with_clipping_logs_what_is_documented(tmp_path, network):
    fit = trainer(tmp_path, max_epochs=1, precision="bf16-mixed", gradient_clip_val=1.0)
    fit.fit(Translator(network(**SIZES, hidden_size=8)), datamodule=Batches())
    assert set(fit.callback_metrics) == {
        "train/loss", "val/loss", "val/perplexity", "val/token_accuracy", "val/bleu",
    }  # fmt: skip
    assert all(value.isfinite() for value in fit.callback_metrics.values())


def test_checkpoint_of_a_module_made_in_python(tmp_path):
    network = GNMT(**SIZES, hidden_size=8)
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(Translator(network, label_smoothing=0.3), datamodule=Batches())
    fit.save_checkpoint(tmp_path / "model.ckpt")
    assert "network" not in torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]
    loaded = Translator.load_from_checkpoint(tmp_path / "model.ckpt", network=GNMT(**SIZES, hidden_size=8))
    assert loaded.label_smoothing == 0.3
    torch.testing.assert_close(loaded.network.state_dict(), network.state_dict())


@pytest.mark.parametrize("base", [LightningModule, Translator])
def test_checkpoint_of_a_recipe_rebuilds_its_network(tmp_path, monkeypatch, base):
    """As LightningModule the class comes from class_path, the way that recipes are written."""
    init = {
        "label_smoothing": 0.3,
        "network": {
            "class_path": "fulgurite.models.translation.rnn.GNMT",
            "init_args": SIZES | {"hidden_size": 8, "encoder_layers": 3},
        },
    }
    model = init if base is Translator else {"class_path": "fulgurite.models.Translator", "init_args": init}
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "default_root_dir": str(tmp_path)}
    monkeypatch.setattr(sys, "argv", ["fulgurite"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's, about its own call
    cli = LightningCLI(
        base, Batches, args={"model": model, "trainer": options}, run=False, seed_everything_default=1,
        subclass_mode_model=base is LightningModule,
        save_config_callback=None,
    )  # fmt: skip
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.trainer.save_checkpoint(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    loaded = Translator.load_from_checkpoint(tmp_path / "model.ckpt")
    assert isinstance(loaded.network, GNMT)
    assert len(loaded.network.encoder) == 2
    assert loaded.label_smoothing == 0.3
    torch.testing.assert_close(loaded.network.state_dict(), cli.model.network.state_dict())


def _rank(rank: int, rendezvous: str, weights: dict, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    network = GNMT(**SIZES, hidden_size=8)
    network.load_state_dict(weights)
    translator = Translator(network.eval())
    translator._decodes = lambda *_: False  # it asks the Trainer, which this process has not
    translator.log = lambda *_, **__: None
    translator.measure([batch(0), batch(1, size=3)][rank], 0, "val")
    results.put((rank, float(translator.nll.compute()), float(translator.token_accuracy.compute())))
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_measure_what_one_does(tmp_path):
    torch.manual_seed(0)
    network = GNMT(**SIZES, hidden_size=8).eval()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    ranks = [
        context.Process(target=_rank, args=(rank, tmp_path / "rendezvous", network.state_dict(), results))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    measured = sorted(results.get() for _ in ranks)
    for process in ranks:
        process.join()
    expected = by_hand(network, [batch(0), batch(1, size=3)])
    for _, loss, accuracy in measured:
        assert loss == pytest.approx(expected["loss"], rel=1e-5)
        assert accuracy == pytest.approx(expected["token_accuracy"])
