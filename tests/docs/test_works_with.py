"""docs/works_with.md: each line of its table runs as it stands."""

import copy
import importlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from training import Model, loss_of, same, train, weights

import nvrm_fast

SECTION = (Path(__file__).parents[2] / "docs/works_with.md").read_text()
TABLE = SECTION[SECTION.index("| with | line") :].partition("\n\n")[0]
#: What is in lines that train, and so change the weights.
TRAINS = ("scaler.step", "torch.compile", "step_in_backward", "bfloat16", "optimizer.load_state_dict(torch.optim")
#: A step of one operator, or of one parameter: not for an optimizer that somebody else wrote.
NOT_WRAPPED = ("torch.compile", "the step in the backward pass")
OPTIMIZERS = {
    "NVRMAdamW": lambda named: nvrm_fast.NVRMAdamW(named, lr=0.01, variability=0.05),
    "WeightNoise": lambda named: nvrm_fast.WeightNoise(torch.optim.AdamW(named, lr=0.01), variability=0.05),
}
ROWS = re.findall(r"^\| ([^|]+) \| `([^`]+)` \|", TABLE, re.MULTILINE)


def test_every_row_has_a_line():
    assert len(ROWS) == TABLE.count("\n| ") >= 22


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step", "ignore:Starting from v1.9.0")
@pytest.mark.parametrize("name, line", ROWS, ids=[name for name, _ in ROWS])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_line(make, name, line, tmp_path, monkeypatch):
    """After it (and `train()`, where it made a checkpoint) training goes on; inside, weights are clean."""
    if make is OPTIMIZERS["WeightNoise"] and name in NOT_WRAPPED:
        pytest.skip("WeightNoise's page says that this is for the fused optimizers")
    monkeypatch.chdir(tmp_path)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    model, other = Model(), nvrm_fast.NVRMSGD([torch.nn.Parameter(torch.zeros(3))])
    optimizer = make(model.named_parameters())
    train(model, optimizer, 2)
    noisy = weights(model)
    with optimizer.denoised():
        clean = weights(model)
    looked = []
    known = dict(
        torch=torch, copy=copy, nvrm_fast=nvrm_fast, model=model, optimizer=optimizer, other=other, path="file.pt",
        folder="folder", loss_of=lambda model: loss_of(model, 0), prepared=optimizer,
        evaluate=lambda model: looked.append(weights(model)),
    )  # fmt: skip
    for library in ("lightning", "accelerate", "transformers"):
        if library in line:
            importlib.import_module(f"nvrm_fast.integrations.{library}")
            known[library] = importlib.import_module("lightning.pytorch" if library == "lightning" else library)
    if "lightning" in known:
        known["lightning"] = sys.modules["lightning"]
    if "accelerate" in known:
        known["accelerator"] = known["accelerate"].Accelerator(cpu=True)
        known["model"], known["prepared"] = known["accelerator"].prepare(model, optimizer)
    importlib.import_module("nvrm_fast.integrations")
    importlib.import_module("torch.distributed.checkpoint.state_dict")
    exec(line, known)
    assert len(looked) == ("evaluate" in line)
    assert all(same(seen, clean) for seen in looked)
    if any(word in line for word in TRAINS):
        assert not same(weights(model), noisy) or "load_state_dict" in line
    else:
        assert same(weights(model), noisy)
    if "bfloat16" not in line:  # there the line makes an optimizer of its own
        train(model, optimizer, 1, start=2)
