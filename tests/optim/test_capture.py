"""CUDA graphs, without a GPU: what a captured step could not repeat is refused, with a faked capture on CPU tensors.

What replays do on a GPU is in test_cuda_graph.py.
"""

import pytest
import torch
from training import Model, train

from nvrm_fast import NVRMSGD, SGLD, NVRMAdam, NVRMAdamW, NVRMLion, PerturbedSGD

CLASSES = [
    (NVRMSGD, dict(lr=0.1, momentum=0.9)),
    (NVRMAdam, dict(lr=0.01)),
    (NVRMLion, dict(lr=0.01)),
    (PerturbedSGD, dict(lr=0.1, momentum=0.9)),
    (SGLD, dict(lr=0.1)),
]
every_class = pytest.mark.parametrize("cls, options", CLASSES)
every_storage = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


@pytest.fixture
def capturing(monkeypatch):
    """Switches the faked capture on and off."""
    state = {"on": False}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["on"])
    return lambda on: state.update(on=on)


def trained(cls, steps=2, capturable=True, **options):
    model = Model()
    optimizer = cls(model.named_parameters(), capturable=capturable, **options)
    train(model, optimizer, steps)
    return model, optimizer


def assert_refused(call, model, optimizer, message):
    """RuntimeError, and weights and state are as before."""
    before = [p.detach().clone() for p in model.parameters()]
    state = [{k: v.clone() for k, v in optimizer.state.get(p, {}).items()} for p in model.parameters()]
    with pytest.raises(RuntimeError, match=message):
        call()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    for old, p in zip(state, model.parameters()):
        new = optimizer.state.get(p, {})
        assert old.keys() == new.keys()
        assert all(torch.equal(old[k], new[k]) for k in old)


@every_class
@every_storage
def test_a_step_that_has_its_state_is_captured(cls, options, masters, capturing):
    """And it does what a step does: also after denoise() and after a change of the noise, which comes off by the
    record in the parameter's memory."""
    left = []
    for captured in (False, True):
        model, optimizer = trained(cls, master_weights=masters, **options)
        for change in range(3):
            if change == 1 and hasattr(optimizer, "denoise"):
                optimizer.denoise()
            if change == 2:
                optimizer.param_groups[0]["seed"] = 77
            capturing(captured)
            train(model, optimizer, 1, start=2 + change)
            capturing(False)
        left.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*left))


@every_class
@every_storage
def test_a_first_step_is_refused(cls, options, masters, capturing):
    model, optimizer = trained(cls, steps=0, master_weights=masters, **options)
    train(model, torch.optim.SGD(model.parameters(), lr=0.0), 1)  # gradients
    capturing(True)
    assert_refused(optimizer.step, model, optimizer, r"makes state for parameter 'scalar'.*call step\(\) once outside")
    capturing(False)
    optimizer.step()
    capturing(True)
    optimizer.step()


def test_new_state_is_refused(capturing):
    """State that an option brings in would be emptied by every replay."""
    changes = ((NVRMAdam, "amsgrad", True), (NVRMSGD, "momentum", 0.9), (NVRMAdamW, "master_weights", True))
    for cls, option, value in changes:
        model, optimizer = trained(cls, lr=0.01)
        optimizer.param_groups[0][option] = value
        capturing(True)
        assert_refused(optimizer.step, model, optimizer, "makes state for parameter 'scalar'")
        capturing(False)


@every_class
def test_numbers_that_would_freeze_are_refused(cls, options, capturing):
    """As torch.optim does: a scheduler's next number reaches no replay."""
    model, optimizer = trained(cls, capturable=False, **options)
    capturing(True)
    assert_refused(
        optimizer.step, model, optimizer, "parameter group 0 .*capturable=False.*lr and variability as tensors"
    )
    capturing(False)
    optimizer.step()


def test_changes_of_mode_are_refused(capturing):
    model, optimizer = trained(NVRMSGD, lr=0.1)
    capturing(True)
    for call, name in ((optimizer.eval, "eval"), (optimizer.denoised().__enter__, "denoised")):
        assert_refused(call, model, optimizer, rf"{name}\(\) inside the capture of a CUDA graph.*between replays")
    capturing(False)
    optimizer.eval()
    capturing(True)
    assert_refused(optimizer.train, model, optimizer, r"train\(\) inside the capture of a CUDA graph")
