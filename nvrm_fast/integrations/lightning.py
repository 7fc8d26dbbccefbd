"""PyTorch Lightning: validation, testing, prediction and checkpoints on clean weights."""

from __future__ import annotations

import functools
from typing import Any

from .wrappers import clean_weights, find_optimizers

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback  # type: ignore[assignment]  # the same class under its older name
    except ImportError as error:
        raise ImportError("nvrm_fast.integrations.lightning needs PyTorch Lightning: pip install lightning") from error


class CleanWeights(Callback):
    """Takes the noise off for everything but training.

        trainer = Trainer(callbacks=[CleanWeights()])

    - Validation (the sanity check and validation in the middle of an epoch, too), testing and prediction see clean
      weights. The noise goes on again with the next training batch, bit for bit what was taken off.
    - Checkpoints have clean weights in `state_dict`, also with `save_weights_only=True`, so that
      `load_from_checkpoint` gives a model to use; the noise's record lies in the optimizer's state, so that
      `fit(ckpt_path=...)` goes on bit for bit. That takes 4 bytes per float32 weight in the file, none with
      `master_weights=True`. Checkpoints written without this callback are noisy, and resume bit for bit as well.
    - Between epochs, after `fit`, and after an exception in it, the weights are clean.
    - Lightning's `WeightAveraging` beside it, before or after it in the list, averages clean weights. For each update
      of the average the noise is taken off and put on again.

    Optimizers that are not neural variable are left alone.
    """

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Has the trainer write its checkpoints on clean weights (every way to save one ends in save_checkpoint)."""
        if not hasattr(trainer.save_checkpoint, "on_noisy_weights"):
            save = trainer.save_checkpoint

            @functools.wraps(save)
            def save_checkpoint(*args: Any, **kwargs: Any) -> None:
                with clean_weights(trainer.optimizers):
                    save(*args, **kwargs)

            save_checkpoint.on_noisy_weights = save  # type: ignore[attr-defined]  # a mark, for teardown
            trainer.save_checkpoint = save_checkpoint

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if hasattr(trainer.save_checkpoint, "on_noisy_weights"):
            trainer.save_checkpoint = trainer.save_checkpoint.on_noisy_weights
        for average in _averages(trainer):
            vars(average).pop("update_parameters", None)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for optimizer in find_optimizers(trainer.optimizers):
            optimizer.train()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Has every WeightAveraging (they have their AveragedModel by now) take clean weights into its average."""
        for average in _averages(trainer):
            average.update_parameters = _on_clean_weights(trainer, average.update_parameters)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        _evaluate(trainer)  # before on_train_end, where an average may be put in

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        _evaluate(trainer)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        _evaluate(trainer)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        _evaluate(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        _evaluate(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        _evaluate(trainer)


def _averages(trainer: Any) -> list[Any]:
    """The AveragedModels of the trainer's WeightAveraging callbacks, which Lightning has since 2.6."""
    found = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]
    return [average for average in found if average is not None]


def _on_clean_weights(trainer: Any, update: Any) -> Any:
    @functools.wraps(update)
    def update_parameters(*args: Any, **kwargs: Any) -> None:
        with clean_weights(trainer.optimizers):
            update(*args, **kwargs)

    return update_parameters


def _evaluate(trainer: Any) -> None:
    for optimizer in find_optimizers(trainer.optimizers):
        optimizer.eval()
