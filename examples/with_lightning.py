"""PyTorch Lightning: one callback keeps noise out of validation, testing and checkpoints.

python examples/with_lightning.py
"""

import argparse
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from spirals import accuracy, network, right, spirals
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from nvrm_fast import NVRMAdamW
from nvrm_fast.integrations.lightning import CleanWeights
from nvrm_fast.optim import VariabilityScheduler

warnings.filterwarnings("ignore", module="lightning")  # advice on workers, for data that is larger than this
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(LightningModule):
    def __init__(self, steps: int = 500):
        super().__init__()
        self.save_hyperparameters()
        self.network = network()

    def forward(self, points):
        return self.network(points)

    def training_step(self, batch, batch_idx):
        points, label = batch
        return cross_entropy(self(points), label)  # at weights + noise

    def validation_step(self, batch, batch_idx):
        points, label = batch
        self.log("accuracy", right(self(points), label).mean())  # on clean weights

    def configure_optimizers(self):
        optimizer = NVRMAdamW(self.named_parameters(), lr=0.01, variability=0.05)
        schedule = VariabilityScheduler(optimizer, lambda step: max(0.0, 1 - step / self.hparams.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer(folder: str, epochs: int, *checkpoints: ModelCheckpoint) -> Trainer:
    return Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[CleanWeights(), *checkpoints],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=16)
    epochs = parser.parse_args().epochs
    data, test = spirals(2000, seed=1), spirals(1000, seed=2)
    batches, validation = DataLoader(data, batch_size=64), DataLoader(test, batch_size=1000)
    with TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, filename="best", monitor="accuracy", mode="max")
        half = ModelCheckpoint(folder, filename="half", every_n_epochs=epochs // 2, save_top_k=-1)
        model = Classifier(epochs * len(batches))
        run = trainer(folder, epochs, best, half)
        run.fit(model, batches, validation)
        print(f"validated on clean weights: {float(run.callback_metrics['accuracy']):.3f}")

        loaded = Classifier.load_from_checkpoint(best.best_model_path)  # clean, for whoever uses it
        print(f"best checkpoint: {accuracy(loaded, test):.3f}, as validated: {float(best.best_model_score):.3f}")

        resumed = Classifier(epochs * len(batches))
        again = trainer(folder, epochs, ModelCheckpoint(Path(folder) / "resumed"))
        again.fit(resumed, batches, validation, ckpt_path=Path(folder) / "half.ckpt")
    equal = all(torch.equal(p, q) for p, q in zip(model.parameters(), resumed.parameters()))
    print(f"resumed run equal to the uninterrupted one, bit for bit: {equal}")
    print(f"accuracy on clean weights {accuracy(model, test):.3f}")


if __name__ == "__main__":
    main()
