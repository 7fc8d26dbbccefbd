"""Hugging Face Trainer: evaluation, prediction and checkpoints on clean weights."""

from __future__ import annotations

import warnings
from typing import Any

from .wrappers import find_optimizers

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("nvrm_fast.integrations.transformers needs Transformers: pip install transformers") from error


class CleanWeights(TrainerCallback):
    """Takes the noise off for everything but training steps.

        trainer = Trainer(..., optimizers=(NVRMAdamW(model.named_parameters()), None), callbacks=[CleanWeights()])

    The Trainer itself calls `optimizer.eval()` before it evaluates or predicts and `optimizer.train()` before each
    training step. It does not do so before it saves: this callback does. So

    - checkpoints hold clean weights (`from_pretrained` gives a model to use), the noise's record lies in the
      optimizer's state, and `train(resume_from_checkpoint=...)` goes on bit for bit;
    - the best model, which the Trainer may load at the end, is not mixed with noise;
    - after `train()` the weights are clean.

    Put it last in `callbacks`: what a later callback saves at the end of a step it cannot foresee, and warns. After an
    exception in training the noise is still on; `trainer.optimizer.eval()` takes it off.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The Trainer evaluates and saves right after this event. Other steps shall not pay for a copy.
        if control.should_save or control.should_evaluate:
            self.on_epoch_end(args, state, control, **kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        # The last epoch ends with this event, whatever ended it: no noise is on when the best model is loaded after it.
        for one in find_optimizers(optimizer or []):
            one.eval()

    def on_save(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        if any(one.is_perturbed() for one in find_optimizers(optimizer or [])):
            warnings.warn(
                f"the checkpoint of step {state.global_step} has noisy weights: another callback asked for it after "
                "CleanWeights; make CleanWeights the last of the callbacks",
                stacklevel=2,
            )
