import math

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch import multiprocessing
from torch.nn import functional
from torch.utils.data import DataLoader

from fulgurite.models import DeepSpeech2, SpeechRecognizer

SIZES = {"alphabet": " abc", "num_features": 8, "conv_channels": 4, "hidden_size": 6}


def batch(seed: int, size: int = 4, frames: int = 40, symbols: int = 6) -> dict[str, torch.Tensor]:
    """A batch as fulgurite.data gives it; the longest utterance and the longest transcript fill it."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2 * frames // 3, frames + 1, (size,), generator=generator)
    target_lengths = torch.randint(1, symbols + 1, (size,), generator=generator)
    lengths[0], target_lengths[0] = frames, symbols
    targets = torch.randint(1, 5, (size, symbols), generator=generator)
    return {
        "features": torch.randn(size, frames, 8, generator=generator),
        "lengths": lengths,
        "targets": targets.masked_fill(torch.arange(symbols) >= target_lengths[:, None], 0),
        "target_lengths": target_lengths,
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


class Hearing(DeepSpeech2):
    """Hears the class that each frame's loudest feature names; no strides."""

    def __init__(self):
        super().__init__(**SIZES)

    def forward(self, features, lengths):
        return features[..., :5], lengths

    def output_lengths(self, lengths):
        return lengths


def heard(*paths: list[int]) -> dict[str, torch.Tensor]:
    frames = [functional.one_hot(torch.tensor(path), 8).float() for path in paths]
    return {
        "features": torch.nn.utils.rnn.pad_sequence(frames, batch_first=True),
        "lengths": torch.tensor([len(path) for path in paths]),
    }


def edits(said: list, meant: list) -> int:
    """Levenshtein distance by its definition."""
    if not said or not meant:
        return len(said) + len(meant)
    return min(
        edits(said[1:], meant) + 1,
        edits(said, meant[1:]) + 1,
        edits(said[1:], meant[1:]) + (said[0] != meant[0]),
    )


def test_error_rates_are_edits_over_the_length_of_all_transcripts():
    recognizer = SpeechRecognizer(Hearing())
    recognizer.log = lambda *_, **__: None
    # " abc" are classes 1 to 4: said "ab ac" and "c", meant "ab cc a" and "c"
    spoken = heard([2, 2, 3, 0, 1, 2, 4], [0, 4, 4, 0, 0])
    targets = torch.tensor([[2, 3, 1, 4, 4, 1, 2], [4, 0, 0, 0, 0, 0, 0]])
    batch = {**spoken, "targets": targets, "target_lengths": torch.tensor([7, 1])}
    assert recognizer(batch["features"], batch["lengths"]) == ["ab ac", "c"]
    recognizer.measure(batch, 0, "val")
    assert recognizer.cer.compute() == pytest.approx(edits(list("ab ac"), list("ab cc a")) / 8)
    assert recognizer.wer.compute() == pytest.approx(edits(["ab", "ac"], ["ab", "cc", "a"]) / 4)


def test_loss_is_the_mean_of_each_utterance_alone():
    torch.manual_seed(0)
    recognizer = SpeechRecognizer(DeepSpeech2(**SIZES)).eval()
    one = batch(0)
    alone = []
    for row in range(4):
        length, symbols = int(one["lengths"][row]), int(one["target_lengths"][row])
        logits, (frames,) = recognizer.network(one["features"][row : row + 1, :length], torch.tensor([length]))
        summed = functional.ctc_loss(
            logits[0].log_softmax(-1), one["targets"][row, :symbols], frames, torch.tensor(symbols), reduction="sum"
        )
        alone.append(summed / symbols)
    torch.testing.assert_close(recognizer.loss(one), torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stage", "run"), [("val", Trainer.validate), ("test", Trainer.test)])
def test_loss_of_a_stage_is_the_mean_over_utterances(tmp_path, stage, run):
    torch.manual_seed(0)
    recognizer = SpeechRecognizer(DeepSpeech2(**SIZES))
    (got,) = run(trainer(tmp_path), recognizer, datamodule=Batches(), verbose=False)
    recognizer.eval()
    losses = [float(recognizer.loss(one).detach()) for one in (batch(0), batch(1, size=3))]
    assert got[f"{stage}/loss"] == pytest.approx((4 * losses[0] + 3 * losses[1]) / 7, rel=1e-5)
    assert set(got) == {f"{stage}/loss", f"{stage}/cer", f"{stage}/wer"}


def test_learns_a_batch_by_heart(tmp_path):
    torch.manual_seed(0)
    recognizer = SpeechRecognizer(DeepSpeech2(**SIZES | {"hidden_size": 24}), learning_rate=1e-2, warmup_steps=5)
    one = batch(0)
    before = recognizer.loss(one).item()
    loader = DataLoader([one], batch_size=None)
    fit = trainer(tmp_path, max_epochs=100, check_val_every_n_epoch=100, gradient_clip_val=1.0)
    fit.fit(recognizer, loader, loader)
    assert before > 2
    assert fit.callback_metrics["train/loss"] < 0.2
    assert fit.callback_metrics["val/cer"] == 0
    assert fit.callback_metrics["val/wer"] == 0


def test_lengths_stay_on_the_cpu():
    moved = SpeechRecognizer(DeepSpeech2(**SIZES)).transfer_batch_to_device(batch(0), torch.device("meta"), 0)
    assert {name: value.device.type for name, value in moved.items()} == {
        "features": "meta", "targets": "meta", "lengths": "cpu", "target_lengths": "cpu",
    }  # fmt: skip


def test_a_target_that_is_too_long_stops_before_the_loss(tmp_path):
    bad = batch(0, frames=8)
    with pytest.raises(ValueError, match="leave such utterances out"):
        trainer(tmp_path).validate(SpeechRecognizer(DeepSpeech2(**SIZES)), DataLoader([bad], batch_size=None))


def test_bfloat16_run_with_clipping_logs_what_is_documented(tmp_path):
    fit = trainer(tmp_path, max_epochs=1, precision="bf16-mixed", gradient_clip_val=1.0)
    fit.fit(SpeechRecognizer(DeepSpeech2(**SIZES)), datamodule=Batches())
    assert set(fit.callback_metrics) == {"train/loss", "val/loss", "val/cer", "val/wer"}
    assert all(value.isfinite() for value in fit.callback_metrics.values())


def test_predict_transcribes(tmp_path):
    rows = trainer(tmp_path).predict(SpeechRecognizer(DeepSpeech2(**SIZES)), Batches())
    assert [len(texts) for texts in rows] == [4, 3]
    assert set("".join(rows[0] + rows[1])) <= set(SIZES["alphabet"])


def test_checkpoint_of_a_recipe_rebuilds_its_network(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fulgurite"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's, about its own call
    network = {"class_path": "fulgurite.models.DeepSpeech2", "init_args": SIZES | {"recurrent_layers": 1}}
    model = {"class_path": "fulgurite.models.SpeechRecognizer", "init_args": {"network": network, "warmup_steps": 7}}
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "default_root_dir": str(tmp_path)}
    cli = LightningCLI(
        LightningModule, Batches, args={"model": model, "trainer": options}, run=False, seed_everything_default=1,
        subclass_mode_model=True, save_config_callback=None,
    )  # fmt: skip
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = SpeechRecognizer.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded.warmup_steps == 7
    assert len(loaded.network.recurrent) == 1
    torch.testing.assert_close(loaded.network.state_dict(), cli.model.network.state_dict())


def _rank(rank: int, rendezvous: str, weights: dict, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    measured = _measured(weights, [[batch(0), batch(1, size=3)][rank]])
    results.put(measured)
    torch.distributed.destroy_process_group()


def _measured(weights: dict, batches: list[dict[str, torch.Tensor]]) -> list[float]:
    network = DeepSpeech2(**SIZES)
    network.load_state_dict(weights)
    recognizer = SpeechRecognizer(network.eval())
    recognizer.log = lambda *_, **__: None
    with torch.no_grad():
        for index, one in enumerate(batches):
            recognizer.measure(one, index, "val")
    return [float(metric.compute()) for metric in (recognizer.mean_loss, recognizer.cer, recognizer.wer)]


@pytest.mark.distributed
def test_two_processes_measure_what_one_does(tmp_path):
    torch.manual_seed(0)
    weights = DeepSpeech2(**SIZES).state_dict()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(rank, tmp_path / "rendezvous", weights, results)) for rank in range(2)]
    for process in ranks:
        process.start()
    measured = [results.get() for _ in ranks]
    for process in ranks:
        process.join()
    expected = _measured(weights, [batch(0), batch(1, size=3)])
    assert all(math.isfinite(value) for value in expected)
    assert measured == [pytest.approx(expected, rel=1e-5)] * 2
