import json
import pickle
from collections import Counter

import lightning as L
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import DDPStrategy

from fulgurite.data import GettextTranslation
from fulgurite.data.mo_catalogue import find_catalogues, read_language
from fulgurite.data.splits import split_by_hash

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


@pytest.fixture(scope="module")
def default():
    data = GettextTranslation()
    data.setup("fit")
    return data


def small(**options):
    return GettextTranslation(**{"targets": ["fr"], "batch_size": 32, **options})


def rows(loader):
    """All (source, target) id sequences of an epoch, without padding."""
    return [
        (tuple(source[:length].tolist()), tuple(target[target != 0].tolist()))
        for batch in loader
        for source, length, target in zip(batch["source"], batch["source_lengths"], batch["target"], strict=True)
    ]


def test_an_epoch_has_500_iterations_without_any_option(default):
    assert len(default.train_dataloader()) >= 500
    assert len(default.batch_shapes()) == len(default.train_dataloader())
    assert default.too_long == 0


def test_batches_are_what_the_models_expect(default):
    for loader in (default.train_dataloader(), default.val_dataloader(), default.test_dataloader()):
        batch = next(iter(loader))
        assert set(batch) == {"source", "source_lengths", "target"}
        assert {values.dtype for values in batch.values()} == {torch.long}
        lengths = (batch["source"] != 0).sum(dim=1)
        assert torch.equal(lengths, batch["source_lengths"])
        assert batch["source"].shape[1] == lengths.max()
        target = batch["target"]
        assert (target[:, 0] == 1).all()
        last = (target != 0).sum(dim=1) - 1
        assert (target.gather(1, last[:, None]) == 2).all()
        assert target.shape[1] == last.max() + 1
        assert batch["source"].max() < 8000
        assert target.max() < 8000


def test_the_first_token_names_the_language_of_the_target(default):
    sources, targets = default.source_vocabulary, default.target_vocabulary
    texts = {code: read_language(find_catalogues("django"), code) for code in ("fr", "de")}
    seen = {(*sources.decode(source), *targets.decode(target)) for source, target in rows(default.train_dataloader())}
    assert ("<2fr>", "Yes", texts["fr"]["Yes"]) in seen
    assert ("<2de>", "Yes", texts["de"]["Yes"]) in seen


def test_a_message_is_in_one_part_in_all_languages():
    data = small(targets=["de", "fr", "ja"], val_share=0.2, test_share=0.1, max_length=1000)
    catalogues = find_catalogues("django")
    keys = [key for code in data.targets for key in read_language(catalogues, code)]
    parts = split_by_hash(keys, val_share=0.2, test_share=0.1)
    sizes = {part: sum(parts[key] == part for key in keys) for part in ("train", "val", "test")}
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert [len(rows(loader)) for loader in loaders] == list(sizes.values())


def test_words_of_the_other_parts_are_unknown_unless_the_training_part_has_them(default):
    kept = set(default.source_vocabulary.words)
    seen = {word for source, _ in rows(default.train_dataloader()) for word in default.source_vocabulary.decode(source)}
    assert kept - {"<pad>", "<bos>", "<eos>", "<unk>"} == seen
    assert any(3 in source for source, _ in rows(default.val_dataloader()))


def test_other_sources_are_joined_through_the_message():
    data = small(source="de", targets=["fr"])
    seen = {
        (*data.source_vocabulary.decode(source), *data.target_vocabulary.decode(target))
        for source, target in rows(data.train_dataloader())
    }
    assert ("Ja", "Oui") in seen
    english = small(source="de", targets=["en"])
    assert (english.lengths[:, 0] > 0).all()
    assert "Yes" in english.target_vocabulary.words


def test_setup_loads_once_and_gives_the_same_every_time(monkeypatch):
    data = small()
    data.setup("fit")
    first = rows(data.val_dataloader())
    monkeypatch.setattr(data, "load", None)
    data.setup("validate")
    assert rows(data.val_dataloader()) == first
    assert rows(small().val_dataloader()) == first


@pytest.mark.parametrize("batching", ["shuffle", "bucket"])
def test_an_epoch_can_be_resumed_from_torchs_random_state(batching):
    data = small(batching=batching)
    loader = data.train_dataloader()
    torch.manual_seed(3)
    first = rows(loader)
    state = torch.get_rng_state()
    second = rows(loader)
    torch.set_rng_state(state)
    assert rows(small(batching=batching).train_dataloader()) == second != first
    assert sorted(first) == sorted(second)


def test_shapes_are_known_without_drawing_from_the_global_state():
    data = small(batching="bucket", max_tokens=200)
    state = torch.get_rng_state()
    shapes = data.batch_shapes(7)
    assert np.array_equal(shapes, data.batch_shapes(7))
    assert not np.array_equal(shapes, data.batch_shapes(8))
    assert torch.equal(torch.get_rng_state(), state)
    real = [(*batch["source"].shape, batch["target"].shape[1]) for batch in data.train_dataloader()]
    assert sorted(real) == sorted(map(tuple, shapes.tolist()))
    assert (shapes[:, 0] * shapes[:, 1:].max(axis=1)).max() <= 200


def test_buckets_pad_a_small_part_of_what_shuffling_pads(default):
    def waste(batching):
        shapes = small(targets=default.targets, batch_size=16, batching=batching).batch_shapes()
        return 1 - default.lengths.sum() / (shapes[:, :1] * shapes[:, 1:]).sum()

    assert waste("bucket") < 0.1 < 0.5 < waste("shuffle")


def test_reads_parallel_files(shared_data):
    folder = shared_data / "iwslt15_en_vi"
    data = GettextTranslation(
        source_file=str(folder / "tst2012.en"), target_file=str(folder / "tst2012.vi"), max_length=60, val_share=0.1
    )
    data.setup("fit")
    parts = [len(rows(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert sum(parts) + data.too_long == 1553
    assert 0 < data.too_long < 40
    assert data.lengths.max() <= 62, "60 words and two marks"
    assert np.corrcoef(data.lengths.T)[0, 1] > 0.85
    assert not any(word.startswith("<2") for word in data.source_vocabulary.words)


def test_pairs_left_out_are_counted_and_reported(caplog):
    with caplog.at_level("INFO"):
        data = small(max_length=10)
        data.setup()
    assert data.too_long > 50
    assert f"{data.too_long} left out as longer than 10 tokens" in caplog.text
    assert data.lengths.max() <= 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_file": "a.en"}, "give both, or neither for 'django'"),
        ({"source": "fr"}, "none the source"),
        ({"targets": []}, "one target or more"),
        ({"targets": ["fr", "fr"]}, "each once"),
        ({"max_length": 0}, "at least 1 token"),
        ({"batching": "lengthwise"}, "'bucket'"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_options_that_contradict_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["zh"]}, "nearest: zh_Hans, zh_Hant"),
        ({"package": "djang"}, "nearest installed ones are Django"),
        ({"source_vocab_size": 4}, "vocabulary size of 4"),
        ({"val_share": 0.7, "test_share": 0.4}, "less than 1"),
        ({"max_tokens": 10}, "more than max_tokens=10"),
        ({"targets": ["am"], "source": "fy"}, "no translated messages in django fy → am"),
    ],
)
def test_data_that_cannot_be_had_is_refused_with_advice(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options).train_dataloader()


def test_a_part_that_was_not_wanted_is_named():
    with pytest.raises(ValueError, match="no val part; val_share is 0"):
        small(val_share=0).val_dataloader()


def test_a_checkpoint_of_other_words_is_refused():
    data = small()
    state = data.state_dict()
    small().load_state_dict(state)
    with pytest.raises(ValueError, match="another target vocabulary"):
        small(target_vocab_size=50).load_state_dict(state)


def test_options_come_from_yaml_and_workers_can_be_sent_everything():
    parser = ArgumentParser()
    parser.add_class_arguments(GettextTranslation, "data")
    config = parser.parse_string("data:\n  targets: [fr, de]\n  batching: bucket\n  max_tokens: 300\n")
    data = parser.instantiate(config).data
    assert data.targets == ("fr", "de")
    loader = data.train_dataloader()
    dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    batch = collate([dataset[0], dataset[1]])
    assert torch.equal(batch["source"], loader.collate_fn([loader.dataset[0], loader.dataset[1]])["source"])


class Recorder(L.LightningModule):
    """Learns nothing and writes down which samples it sees."""

    def __init__(self, folder=None):
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {"train": [], "val": []}

    def training_step(self, batch, batch_idx):
        self.write("train", batch)
        return self.weight * batch["source"].float().mean()

    def validation_step(self, batch, batch_idx):
        self.write("val", batch)

    def write(self, part, batch):
        self.seen[part].append([self.current_epoch, rows([batch])])

    def on_fit_end(self):
        if self.folder is not None:
            (self.folder / f"{self.global_rank}.json").write_text(json.dumps(self.seen))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def quiet(folder, **options):
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def test_overfitting_sees_the_same_batches_every_epoch(tmp_path):
    model = Recorder()
    quiet(tmp_path, max_epochs=2, overfit_batches=3).fit(model, datamodule=small())
    batches = [batch for _, batch in model.seen["train"]]
    assert len(batches) == 6
    assert batches[:3] == batches[3:]


@pytest.mark.distributed
@pytest.mark.parametrize(
    "options", [{}, {"batching": "bucket"}, {"batching": "bucket", "max_tokens": 150}, {"max_tokens": 150}]
)
def test_two_ranks_share_every_epoch(tmp_path, options):
    torch.set_num_threads(1)
    trainer = quiet(tmp_path, devices=2, strategy=DDPStrategy(start_method="fork"), max_epochs=2)
    trainer.fit(Recorder(tmp_path), datamodule=small(**options))
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    everything = Counter(map(str, json.loads(json.dumps(rows(small().train_dataloader())))))
    epochs = []
    for epoch in range(2):
        mine, other = ([batch for number, batch in rank["train"] if number == epoch] for rank in ranks)
        assert len(mine) == len(other)
        together = Counter(str(row) for batch in (*mine, *other) for row in batch)
        assert not everything - together
        repeated = together - everything
        assert not repeated or repeated in [Counter(map(str, batch)) for batch in (*mine, *other)], "one batch at most"
        epochs.append(mine)
    assert epochs[0] != epochs[1], "reshuffled"
    validated = [row for rank in ranks for _, batch in rank["val"] for row in batch]
    assert {json.dumps(row) for row in rows(small().val_dataloader())} == {json.dumps(row) for row in validated}
