"""Averages of weights are averages of clean ones: under Lightning in either order, elsewhere with a warning."""

import warnings

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.data import DataLoader
from training import same, weights

from nvrm_fast import NVRMSGD, PerturbedSGD
from nvrm_fast.integrations.lightning import CleanWeights
from nvrm_fast.optim import averaging

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
every_order = pytest.mark.parametrize("average_first", [True, False])
BATCHES = 4


class Module(LightningModule):
    def __init__(self, masters=False, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.seen, self.trained = [], []

    def loss(self, i):
        generator = torch.Generator().manual_seed(i)
        x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)
        return (self.layer(x) - y).square().mean()

    def training_step(self, batch, batch_idx):
        self.trained.append(weights(self.layer))
        return self.loss(self.global_step)

    def validation_step(self, batch, batch_idx):
        self.seen.append(weights(self.layer))

    def configure_optimizers(self):
        return NVRMSGD(
            self.parameters(), lr=self.hparams.lr, momentum=0.9, variability=0.1, master_weights=self.hparams.masters
        )


def fit(folder, module, average_first=None, epochs=3, ckpt_path=None, **options):
    callbacks = [CleanWeights(), ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)]
    if average_first is not None:
        average = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging").EMAWeightAveraging(decay=0.9)
        callbacks.insert(0 if average_first else 1, average)
    trainer = Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False, callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    loader = DataLoader(torch.zeros(BATCHES, 1), batch_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader, loader, ckpt_path=ckpt_path, weights_only=False)
    return trainer


def close(a, b, atol=1e-6):
    return all((a[name] - b[name]).abs().max() <= atol for name in a)


def states(module, file):
    """The average and the current weights of a checkpoint."""
    return [
        {name.removeprefix("layer."): value for name, value in file[key].items()}
        for key in ("state_dict", "current_model_state")
    ]


@STORAGES
@every_order
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 1}, {"max_steps": 2 * BATCHES + 1}], ids=str)
def test_nothing_but_clean_weights_where_nothing_moves(tmp_path, masters, average_first, options):
    """With a learning rate of next to nothing every clean weight, and so every average, is the first one."""
    module = Module(masters, lr=1e-12)
    first = weights(module.layer)
    fit(tmp_path, module, average_first, **options)
    assert module.seen and all(close(first, seen) for seen in module.seen)
    assert not any(close(first, trained) for trained in module.trained[1:])
    assert close(first, weights(module.layer))
    files = list(tmp_path.glob("*.ckpt"))
    assert len(files) >= 2 * BATCHES + 1
    for path in files:
        for state in states(module, torch.load(path, weights_only=False)):
            assert close(first, state), path


@STORAGES
@every_order
def test_the_average_is_that_of_the_clean_weights_and_training_is_the_same(tmp_path, masters, average_first):
    alone, module = Module(masters), Module(masters)
    fit(tmp_path / "alone", alone)
    fit(tmp_path / "average", module, average_first)
    assert all(same(a, b) for a, b in zip(alone.trained, module.trained))
    average = None
    for step in range(1, 3 * BATCHES + 1):
        file = torch.load(tmp_path / "average" / f"step={step}.ckpt", weights_only=False)
        saved, current = states(module, file)
        clean = torch.load(tmp_path / "alone" / f"step={step}.ckpt", weights_only=False)["state_dict"]
        clean = {name.removeprefix("layer."): value for name, value in clean.items()}
        assert same(current, clean)
        average = clean if average is None else {name: 0.9 * average[name] + 0.1 * clean[name] for name in clean}
        assert close(average, saved)
    assert close(average, weights(module.layer))


@STORAGES
@every_order
@pytest.mark.parametrize("at", [BATCHES, BATCHES + 2], ids=["between epochs", "in an epoch"])
def test_resumed_from_a_checkpoint(tmp_path, masters, average_first, at):
    straight, resumed = Module(masters), Module(masters)
    fit(tmp_path, straight, average_first)
    fit(tmp_path / "again", resumed, average_first, ckpt_path=tmp_path / f"step={at}.ckpt")
    assert len(resumed.trained) == 3 * BATCHES - at
    assert all(same(a, b) for a, b in zip(straight.trained[at:], resumed.trained))
    assert same(weights(straight.layer), weights(resumed.layer))


def test_nothing_stays_on_the_averaged_model(tmp_path):
    module = Module()
    trainer = fit(tmp_path, module, False)
    (average,) = [callback._average_model for callback in trainer.callbacks if hasattr(callback, "_average_model")]
    assert "update_parameters" not in vars(average)


# In a loop of one's own.


@pytest.fixture
def watched(monkeypatch):
    """As in a process that has not warned yet."""
    averaging.unwatch()
    monkeypatch.setattr(averaging, "_watched_before", [])
    yield
    averaging.unwatch()


def step(model, optimizer):
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()


@STORAGES
def test_averaging_noisy_weights_is_said_once_with_the_line_that_mends_it(watched, masters):
    model = nn.Linear(6, 3)
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.1, master_weights=masters)
    average = AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))
    step(model, optimizer)
    with pytest.warns(UserWarning, match=r"with optimizer.denoised\(\): average.update_parameters\(model\)") as said:
        average.update_parameters(model)
    assert said[0].filename == __file__ and int(average.n_averaged) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average.update_parameters(model)
        step(model, optimizer)
        average.update_parameters(model)
    assert AveragedModel.update_parameters is averaging._update  # torch's own again


@pytest.mark.parametrize("how", ["denoised", "eval", "denoise", "b = 0", "noise that stays", "another model"])
def test_averaging_clean_weights_says_nothing(watched, how):
    model = nn.Linear(6, 3)
    clean = weights(model)
    cls = PerturbedSGD if how == "noise that stays" else NVRMSGD
    optimizer = cls(model.parameters(), lr=0.1, variability=0.0 if how == "b = 0" else 0.1)
    averaged = nn.Linear(6, 3) if how == "another model" else model
    average = AveragedModel(averaged)
    step(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if how == "denoised":
            with optimizer.denoised():
                average.update_parameters(averaged)
        else:
            if how in ("eval", "denoise"):
                getattr(optimizer, how)()
            average.update_parameters(averaged)
    if how in ("denoised", "eval", "denoise"):
        assert close(clean, {name.removeprefix("module."): x for name, x in weights(average).items()})


def test_a_function_that_somebody_else_has_put_there_stays(watched, monkeypatch):
    def own(self, model):
        pass

    monkeypatch.setattr(AveragedModel, "update_parameters", own)
    model = nn.Linear(6, 3)
    step(model, NVRMSGD(model.parameters(), lr=0.1))
    assert AveragedModel.update_parameters is own
