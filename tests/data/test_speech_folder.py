import itertools
import pickle

import lightning as L
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from fulgurite.data import SpeechFolder
from fulgurite.data.tone_speech import DEFAULT_ALPHABET, tone_transcripts, write_librispeech


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech") / "corpus"
    write_librispeech(root, utterances=40)
    return str(root)


def tones(**options):
    return SpeechFolder(**{"utterances": 60, "batch_size": 4, **options})


def rows(loader):
    """All (letters, features) of an epoch, without padding."""
    return [
        ("".join(DEFAULT_ALPHABET[number - 1] for number in letters[:count]), features[:length])
        for batch in loader
        for letters, count, features, length in zip(
            batch["targets"], batch["target_lengths"], batch["features"], batch["lengths"], strict=True
        )
    ]


@pytest.mark.slow
def test_an_epoch_has_500_iterations_without_any_option():
    data = SpeechFolder()
    data.setup("fit")
    assert len(data.train_dataloader()) >= 500
    assert data.too_long == 0


def test_batches_are_what_the_models_expect():
    data = tones()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        assert set(batch) == {"features", "lengths", "targets", "target_lengths"}
        assert batch["features"].dtype == torch.float32
        assert batch["features"].shape[1:] == (batch["lengths"].max(), 40)
        assert batch["targets"].dtype == batch["lengths"].dtype == batch["target_lengths"].dtype == torch.long
        assert torch.equal((batch["targets"] != 0).sum(dim=1), batch["target_lengths"])
        for features, length in zip(batch["features"], batch["lengths"], strict=True):
            assert not features[length:].any()
            assert abs(features[:length].mean()) < 1e-2
            assert abs(features[:length].std() - 1) < 1e-2


def test_lengths_are_known_before_a_sound_is_made():
    data = tones(batching="bucket")
    state = torch.get_rng_state()
    shapes = data.batch_shapes()
    assert torch.equal(torch.get_rng_state(), state)
    real = [(*batch["features"].shape[:2], batch["targets"].shape[1]) for batch in data.train_dataloader()]
    assert sorted(real) == sorted(map(tuple, shapes.tolist()))


def test_the_parts_hold_every_sentence_and_share_none():
    data = tones(val_share=0.2, test_share=0.2)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    parts = [[text for text, _ in rows(loader)] for loader in loaders]
    assert sorted(itertools.chain(*parts)) == sorted(tone_transcripts(60))
    assert not any(set(a) & set(b) for a, b in ((parts[0], parts[1]), (parts[0], parts[2]), (parts[1], parts[2])))


def test_features_are_the_same_in_every_epoch_and_every_run():
    data = tones()
    first, again, other = (
        dict(rows(loader)) for loader in (data.train_dataloader(), data.train_dataloader(), tones().train_dataloader())
    )
    for epoch in (again, other):
        assert first.keys() == epoch.keys()
        assert all(torch.equal(first[text], epoch[text]) for text in first)


def test_a_folder_sounds_like_what_was_written_to_it(corpus):
    files = SpeechFolder(root=corpus, sample_rate=8000, batch_size=4, val_share=0, test_share=0)
    heard, made = (
        dict(rows(data.train_dataloader())) for data in (files, tones(utterances=40, val_share=0, test_share=0))
    )
    assert heard.keys() == made.keys()
    for text, features in heard.items():
        torch.testing.assert_close(features, made[text], atol=0.02, rtol=0)


def test_flac_and_own_folders_for_validation(tmp_path, corpus):
    write_librispeech(tmp_path / "val", transcripts=["for validation"], audio="flac")
    data = SpeechFolder(root=corpus, val_root=str(tmp_path / "val"), sample_rate=8000, test_share=0.1)
    assert [text for text, _ in rows(data.val_dataloader())] == ["for validation"]
    trained, tested = (rows(loader) for loader in (data.train_dataloader(), data.test_dataloader()))
    assert len(trained) + len(tested) == 40
    assert tested


def test_another_alphabet_gives_other_ids():
    data = tones(alphabet="zyxwvutsrqponmlkjihgfedcba ")
    batch = next(iter(data.train_dataloader()))
    assert set(batch["targets"].flatten().tolist()) <= set(range(28))
    text = "".join(" zyxwvutsrqponmlkjihgfedcba "[number] for number in batch["targets"][0] if number)
    assert text in tone_transcripts(60, alphabet="zyxwvutsrqponmlkjihgfedcba ")


def test_long_utterances_are_left_out_and_counted(caplog):
    with caplog.at_level("INFO"):
        data = tones(max_seconds=1.5)
        data.setup()
    assert 0 < data.too_long < 60
    assert f"{data.too_long} left out as longer than 1.5 s" in caplog.text
    assert data.lengths[:, 0].max() <= 150


def test_a_frame_budget_bounds_every_batch():
    shapes = tones(max_tokens=600).batch_shapes()
    assert (shapes[:, 0] * shapes[:, 1]).max() <= 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphabet": "aa"}, "none twice"),
        ({"alphabet": ""}, "one sign or more"),
        ({"val_root": "x"}, "give root"),
        ({"max_seconds": 0}, "more than 0"),
        ({"batching": "x"}, "'bucket'"),
    ],
)
def test_options_that_contradict_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        tones(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"utterances": 0}, "utterances=0"),
        ({"max_seconds": 0.01}, "all 60 utterances are longer than 0.01 s"),
        ({"num_features": 3000}, "num_features=3000"),
        ({"root": "nowhere"}, "nowhere is not a folder"),
        ({"utterances": 2}, "2 different texts, too few"),
    ],
)
def test_data_that_cannot_be_had_is_refused_with_advice(options, message):
    with pytest.raises(ValueError, match=message):
        tones(**options).setup()


def test_the_default_rate_of_a_folder_is_librispeechs(corpus):
    with pytest.raises(ValueError, match="8000 Hz, want 16000; resample it, or set sample_rate=8000 for all"):
        SpeechFolder(root=corpus).setup()


def test_options_come_from_yaml_and_workers_can_be_sent_everything(corpus):
    parser = ArgumentParser()
    parser.add_class_arguments(SpeechFolder, "data")
    config = parser.parse_string(f"data:\n  root: {corpus}\n  sample_rate: 8000\n  num_workers: 1\n")
    loader = parser.instantiate(config).data.val_dataloader()
    dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    assert torch.equal(collate([dataset[0]])["features"], loader.collate_fn([loader.dataset[0]])["features"])
    torch.set_num_threads(1)
    assert [text for text, _ in rows(loader)]


class Listener(L.LightningModule):
    """The smallest network with the loss that the data is for."""

    def __init__(self):
        super().__init__()
        self.letters = torch.nn.Conv1d(40, 29, 3, padding=1)
        self.losses = []

    def training_step(self, batch, batch_idx):
        scores = self.letters(batch["features"].transpose(1, 2)).permute(2, 0, 1).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(
            scores, batch["targets"], batch["lengths"], batch["target_lengths"], zero_infinity=False
        )
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.03)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated")
def test_even_one_convolution_learns_from_it(tmp_path):
    L.seed_everything(0)
    model = Listener()
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=8,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, tones().train_dataloader())
    assert np.mean(model.losses[-10:]) < 0.5 * np.mean(model.losses[5:15])
