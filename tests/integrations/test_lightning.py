"""Lightning's own Trainer: clean at validation and in files, noisy in training, and resumed bit for bit."""

import copy
import warnings

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch import nn
from torch.utils.data import DataLoader
from training import same, weights

from nvrm_fast import NVRMSGD, NVRMAdamW
from nvrm_fast.integrations import clean_weights
from nvrm_fast.integrations.lightning import CleanWeights
from nvrm_fast.optim import VariabilityScheduler

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
BATCHES = 4  # an epoch


class Watcher(Callback):
    """Writes down the weights wherever Lightning shows them."""

    def __init__(self):
        self.seen = {}

    def note(self, event, module):
        self.seen.setdefault(event, []).append(weights(module))

    def on_train_start(self, trainer, module):
        self.note("start", module)

    def on_before_backward(self, trainer, module, loss):
        self.note("train", module)

    def on_validation_batch_start(self, trainer, module, *_):
        self.note("validation", module)

    def on_test_batch_start(self, trainer, module, *_):
        self.note("test", module)

    def on_predict_batch_start(self, trainer, module, *_):
        self.note("predict", module)


class Module(LightningModule):
    """Inputs are a function of the step, so that a run resumed in the middle of an epoch sees what it would have."""

    def __init__(self, masters=False, variability=0.05, cls=NVRMSGD, manual=False):
        super().__init__()
        self.save_hyperparameters()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(6, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
        self.automatic_optimization = not manual

    def loss(self, i):
        generator = torch.Generator().manual_seed(i)
        x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)
        return (self.layer(x) - y).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(self.global_step)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("validation_loss", self.loss(1000 + batch_idx))

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self.loss(batch_idx)

    def configure_optimizers(self):
        options = dict(momentum=0.9) if self.hparams.cls is NVRMSGD else {}
        optimizer = self.hparams.cls(
            self.named_parameters(), lr=0.1, variability=self.hparams.variability,
            master_weights=self.hparams.masters, **options,
        )  # fmt: skip
        scheduler = VariabilityScheduler(optimizer, lambda step: 0.9**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def loader():
    return DataLoader(torch.zeros(BATCHES, 1), batch_size=1)


def fit(folder, module, epochs=3, callbacks=(), ckpt_path=None, clean=True, **options):
    watcher = Watcher()
    trainer = Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[watcher, *([CleanWeights()] if clean else []), *callbacks],
        **{"enable_checkpointing": bool(callbacks), **options},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path, weights_only=False)
    return trainer, watcher.seen


@STORAGES
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_clean_where_it_looks_and_noisy_where_it_trains(tmp_path, masters, manual):
    """Against the same run without validation: training is the same bit for bit, validation sees the clean weights."""
    module = Module(masters, manual=manual)
    trainer, seen = fit(tmp_path, module, val_check_interval=2)
    _, unwatched = fit(tmp_path, Module(masters, manual=manual), clean=False, limit_val_batches=0)
    assert len(seen["train"]) == len(unwatched["train"]) == 3 * BATCHES
    assert all(same(a, b) for a, b in zip(seen["train"], unwatched["train"]))
    assert same(seen["start"][0], seen["train"][0])
    assert len(seen["validation"]) == 2 + 6 * BATCHES  # with the sanity check
    plain = Module(masters, variability=0.0)
    _, without_noise = fit(tmp_path, plain, clean=False, limit_val_batches=0)
    for validated, noisy in zip(seen["validation"][2 :: 2 * BATCHES], seen["train"][2::BATCHES]):
        assert not same(validated, noisy)
        assert max((validated[k] - noisy[k]).abs().max() for k in noisy) < 6 * 0.05
    assert not same(seen["train"][-1], without_noise["train"][-1])  # the noise did something
    assert same(weights(module), seen["validation"][-1])  # clean after fit
    trainer.test(module, loader(), verbose=False)
    trainer.predict(module, loader())


class AllSteps(ModelCheckpoint):
    def __init__(self, folder, weights_only=False):
        super().__init__(
            folder, filename="{step}", every_n_train_steps=1, save_top_k=-1, save_weights_only=weights_only
        )

    @property
    def state_key(self):  # two of them in one Trainer need two
        return f"{super().state_key} {self.dirpath}"


@STORAGES
@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdamW])
@pytest.mark.parametrize("at", [BATCHES, BATCHES + 2], ids=["between epochs", "in an epoch"])
def test_checkpoints_are_clean_and_resume_exactly(tmp_path, masters, cls, at):
    straight = Module(masters, cls=cls)
    _, seen = fit(tmp_path, straight, callbacks=[AllSteps(tmp_path)])
    path = tmp_path / f"step={at}.ckpt"
    saved = torch.load(path, weights_only=False)
    _, noisy = fit(tmp_path, Module(masters, cls=cls), clean=False, max_steps=at + 1)
    assert not same(saved["state_dict"], noisy["train"][-1])

    resumed = Module(masters, cls=cls)
    _, again = fit(tmp_path, resumed, ckpt_path=path)
    assert same(again["start"][0], saved["state_dict"])
    assert len(again["train"]) == 3 * BATCHES - at
    assert all(same(a, b) for a, b in zip(seen["train"][at:], again["train"]))
    assert same(weights(straight), weights(resumed))

    model = Module.load_from_checkpoint(path, weights_only=False)
    assert same(weights(model), saved["state_dict"])


@STORAGES
def test_the_file_holds_the_weights_that_were_validated(tmp_path, masters):
    """Saved by every way there is: in the callback, weights only, asynchronously, by hand, after the fit."""
    folders = [tmp_path / name for name in ("whole", "weights", "async", "by hand")]

    class ByHand(Callback):
        def on_train_batch_end(self, trainer, *_):
            noisy = weights(trainer.lightning_module)
            trainer.save_checkpoint(folders[3] / f"step={trainer.global_step}.ckpt")
            assert same(noisy, weights(trainer.lightning_module))

    module = Module(masters)
    trainer, seen = fit(
        tmp_path, module, val_check_interval=1,
        callbacks=[AllSteps(folders[0]), AllSteps(folders[1], weights_only=True), ByHand()],
    )  # fmt: skip
    fit(tmp_path, Module(masters), callbacks=[AllSteps(folders[2])], plugins=[AsyncCheckpointIO()])
    for i in range(3 * BATCHES):
        validated = seen["validation"][2 + i * BATCHES]
        for folder in folders:
            saved = torch.load(folder / f"step={i + 1}.ckpt", weights_only=False)
            assert same(saved["state_dict"], validated), (folder.name, i)
            assert ("optimizer_states" in saved) == (folder != folders[1])
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert same(torch.load(tmp_path / "after.ckpt", weights_only=False)["state_dict"], weights(module))


@pytest.mark.parametrize("where", ["on_train_batch_end", "on_validation_batch_start", "on_before_backward"])
def test_clean_after_an_exception(tmp_path, where):
    class Fails(Callback):
        pass

    def fail(self, trainer, *_):
        if trainer.global_step == 3:
            raise KeyError(where)

    setattr(Fails, where, fail)
    module = Module()
    with pytest.raises(KeyError, match=where):
        fit(tmp_path, module, callbacks=[Fails()], val_check_interval=1, enable_checkpointing=False)
    reference = Module()
    fit(tmp_path, reference, max_steps=3)
    assert same(weights(module), weights(reference))
    fit(tmp_path, module, epochs=1)  # and may be trained again


def test_other_optimizers_are_left_alone(tmp_path):
    class Plain(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    one, two = Plain(), Plain()
    fit(tmp_path, one, callbacks=[AllSteps(tmp_path)])
    fit(tmp_path, two, clean=False)
    assert same(weights(one), weights(two))


def test_fabric():
    """Lightning without its Trainer: the wrapper that `setup` returns is looked through."""
    module = Module()
    fabric = Fabric(accelerator="cpu", devices=1)
    optimizer = NVRMSGD(module.parameters(), lr=0.1, variability=0.05)
    model, wrapped = fabric.setup(module.layer, optimizer)
    fabric.backward(model(torch.ones(2, 6)).sum())
    wrapped.step()
    noisy = weights(module)
    with clean_weights(wrapped):
        clean = weights(module)
    assert same(weights(module), noisy) and not same(clean, noisy)
    optimizer.denoise()
    assert same(weights(module), clean)


def test_the_other_name_of_the_library(tmp_path):
    """pytorch_lightning is a second copy of Lightning with classes of its own; callbacks are told by their methods."""
    import pytorch_lightning

    module = pytorch_lightning.LightningModule()
    inner = Module()
    module.inner = inner
    module.training_step = lambda batch, batch_idx: inner.loss(batch_idx)
    optimizer = NVRMSGD(module.parameters(), lr=0.1, variability=0.05)
    module.configure_optimizers = lambda: optimizer
    trainer = pytorch_lightning.Trainer(
        max_epochs=1, default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[CleanWeights()],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader())
    clean = weights(module)
    optimizer.train()
    assert not same(clean, weights(module))
    trainer.optimizers[0].eval()
    twin = copy.deepcopy(clean)
    assert same(twin, weights(module))
