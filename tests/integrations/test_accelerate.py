"""Accelerate's own wrappers: evaluation blocks, states that are clean and resume bit for bit."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, set_seed
from training import Model, loss_of, same, weights

from nvrm_fast import NVRMSGD, NVRMAdam
from nvrm_fast.integrations import find_optimizers
from nvrm_fast.integrations.accelerate import denoised, load_state, save_state
from nvrm_fast.optim import VariabilityScheduler

every_class = pytest.mark.parametrize(
    "cls, options", [(NVRMSGD, dict(lr=0.1, momentum=0.9)), (NVRMAdam, dict(lr=0.01))], ids=["SGD", "Adam"]
)
STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps its settings in one shared object, in which the next test may not change the precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Run:
    """Model, optimizer and schedule, as `accelerator.prepare` returns them."""

    def __init__(self, cls, options, masters, accumulate=1, mixed_precision="no"):
        set_seed(0)
        plugin = GradientAccumulationPlugin(num_steps=accumulate, sync_with_dataloader=False)
        self.accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision, gradient_accumulation_plugin=plugin)
        model = Model()
        optimizer = cls(model.named_parameters(), variability=0.05, master_weights=masters, **options)
        scheduler = VariabilityScheduler(optimizer, lambda step: 0.9**step)
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(model, optimizer, scheduler)

    def train(self, start, steps):
        for i in range(start, start + steps):
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(loss_of(self.model, i))
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()

    def weights(self):
        return weights(self.accelerator.unwrap_model(self.model))


@every_class
@STORAGES
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_same_training_as_a_plain_loop(cls, options, masters, accumulate, mixed_precision):
    run = Run(cls, options, masters, accumulate, mixed_precision)
    run.train(0, 6)
    model = Model()
    optimizer = cls(model.named_parameters(), variability=0.05, master_weights=masters, **options)
    scheduler = VariabilityScheduler(optimizer, lambda step: 0.9**step)
    for i in range(6):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision == "bf16"):
            loss = loss_of(model, i)
        (loss / accumulate).backward()
        if (i + 1) % accumulate == 0:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert find_optimizers(run.optimizer) == [run.optimizer.optimizer]
    assert same(run.weights(), weights(model))
    with denoised(run.optimizer), optimizer.denoised():
        assert same(run.weights(), weights(model))
    assert same(run.weights(), weights(model))
    assert optimizer.param_groups[0]["variability"] == run.optimizer.param_groups[0]["variability"] < 0.05


@every_class
@STORAGES
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_states_are_clean_and_resume_exactly(cls, options, masters, safe, tmp_path):
    run = Run(cls, options, masters)
    run.train(0, 4)
    with denoised(run.optimizer):
        clean = run.weights()
    noisy = run.weights()
    save_state(run.accelerator, tmp_path, safe_serialization=safe)
    assert same(run.weights(), noisy) and not same(noisy, clean)
    run.train(4, 3)

    again = Run(cls, options, masters)
    again.accelerator.load_state(tmp_path)
    assert same(again.weights(), clean)
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) first"):
        again.train(4, 1)
    again.optimizer.zero_grad()
    load_state(again.accelerator, tmp_path)
    assert same(again.weights(), noisy)
    again.train(4, 3)
    assert same(run.weights(), again.weights())


@STORAGES
def test_a_plain_save_state_resumes_exactly_too(masters, tmp_path):
    """With noise on: the weights in the file are noisy, which only the docs can help."""
    run = Run(NVRMSGD, dict(lr=0.1), masters)
    run.train(0, 4)
    run.accelerator.save_state(tmp_path)
    run.train(4, 3)
    again = Run(NVRMSGD, dict(lr=0.1), masters)
    load_state(again.accelerator, tmp_path)
    again.train(4, 3)
    assert same(run.weights(), again.weights())
