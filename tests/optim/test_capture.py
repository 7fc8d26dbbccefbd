"""CUDA graphs, without a GPU: what a captured step could not repeat is refused, with a faked capture on CPU tensors.

What replays do on a GPU is in test_cuda_graph.py.
"""

import pytest
import torch
from training import Model, train

from nvrm_fast import NVRMSGD, NVRMAdam, NVRMAdamW, PerturbedSGD

CLASSES = [
    (NVRMSGD, dict(lr=0.1, momentum=0.9)),
    (NVRMAdam, dict(lr=0.01)),
    (PerturbedSGD, dict(lr=0.1, momentum=0.9)),
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


def trained(cls, steps=2, **options):
    model = Model()
    optimizer = cls(model.named_parameters(), variability=0.05, **options)
    train(model, optimizer, steps)
    return model, optimizer


def assert_refused(call, model, optimizer, message):
    """RuntimeError, and weights, state and its record are as before."""
    before = [p.detach().clone() for p in model.parameters()]
    state = [{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in optimizer.state.get(p, {}).items()}
             for p in model.parameters()]  # fmt: skip
    with pytest.raises(RuntimeError, match=message):
        call()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    for old, p in zip(state, model.parameters()):
        new = optimizer.state.get(p, {})
        assert old.keys() == new.keys()
        assert all(torch.equal(torch.as_tensor(old[k]), torch.as_tensor(new[k])) for k in old)


@every_class
@every_storage
def test_a_step_in_the_steady_state_is_captured(cls, options, masters, capturing):
    """And it does what a step does."""
    left = []
    for captured in (False, True):
        model, optimizer = trained(cls, master_weights=masters, **options)
        capturing(captured)
        train(model, optimizer, 1, start=2)
        capturing(False)
        left.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*left))


@every_class
@every_storage
def test_a_first_step_is_refused(cls, options, masters, capturing):
    model, optimizer = trained(cls, steps=0, master_weights=masters, **options)
    train(model, torch.optim.SGD(model.parameters(), lr=0.0), 1)  # gradients
    capturing(True)
    assert_refused(optimizer.step, model, optimizer, r"first one of parameter 'scalar'.*call step\(\) outside")
    capturing(False)
    optimizer.step()
    capturing(True)
    optimizer.step()


def test_a_first_momentum_buffer_is_refused(capturing):
    model, optimizer = trained(NVRMSGD, lr=0.1)
    optimizer.param_groups[0]["momentum"] = 0.9
    capturing(True)
    assert_refused(optimizer.step, model, optimizer, "first one of parameter 'scalar'")


def test_new_state_is_refused(capturing):
    """State that an option brings in would be emptied by every replay."""
    model, optimizer = trained(NVRMAdam)
    optimizer.param_groups[0]["amsgrad"] = True
    capturing(True)
    assert_refused(optimizer.step, model, optimizer, "first one of parameter 'scalar'")


@every_storage
@pytest.mark.parametrize(
    "option, value", [("variability", 0.02), ("variability", 0.0), ("noise", "laplace"), ("seed", 77)]
)
def test_a_change_of_noise_is_refused(option, value, masters, capturing):
    model, optimizer = trained(NVRMAdamW, master_weights=masters)
    optimizer.param_groups[0][option] = value
    capturing(True)
    message = r"noise on parameter 'scalar'.*is not the noise that the step puts on.*call step\(\) outside"
    assert_refused(optimizer.step, model, optimizer, message)
    capturing(False)
    optimizer.step()
    capturing(True)
    optimizer.step()


def test_a_step_after_denoise_is_refused(capturing):
    model, optimizer = trained(NVRMSGD, lr=0.1)
    optimizer.denoise()
    capturing(True)
    assert_refused(optimizer.step, model, optimizer, r"noise on parameter 'scalar' \(.*\(0.0, ")


def test_no_noise_at_all_is_captured(capturing):
    """Two kinds of no noise are the same."""
    model, optimizer = trained(NVRMSGD, lr=0.1)
    optimizer.param_groups[0]["variability"] = 0.0
    optimizer.step()
    optimizer.param_groups[0]["seed"] = 5
    capturing(True)
    optimizer.step()


def test_what_the_host_decides_at_every_step_is_refused(capturing):
    model, optimizer = trained(NVRMSGD, lr=0.1, denoise_every=3)
    capturing(True)
    assert_refused(optimizer.step, model, optimizer, "denoise_every cannot be captured.*set denoise_every to None")


@pytest.mark.parametrize("option, value", [("lr", torch.tensor(0.01)), ("betas", (torch.tensor(0.9), 0.999))])
def test_tensor_options_are_refused(option, value, capturing):
    model, optimizer = trained(NVRMAdam)
    optimizer.param_groups[0][option] = value
    capturing(True)
    assert_refused(optimizer.step, model, optimizer, f"whose {option} is a tensor.*make {option} a number")


def test_an_open_verdict_is_refused(capturing):
    model, optimizer = trained(NVRMSGD, lr=0.1)
    optimizer._verdicts._open.append((torch.zeros(1), None, None))
    capturing(True)
    assert_refused(optimizer.step, model, optimizer, "whether the GradScaler skipped the last one")


def test_changes_of_mode_are_refused(capturing):
    model, optimizer = trained(NVRMSGD, lr=0.1)
    capturing(True)
    for call, name in (
        (optimizer.denoise, "denoise"),
        (optimizer.eval, "eval"),
        (optimizer.denoised().__enter__, "eval"),
    ):
        assert_refused(call, model, optimizer, rf"{name}\(\) inside the capture of a CUDA graph.*between replays")
    capturing(False)
    optimizer.eval()
    capturing(True)
    assert_refused(optimizer.train, model, optimizer, r"train\(\) inside the capture of a CUDA graph")


def captured(capturing, **options):
    """A model and an optimizer with a captured step, and what stands for a replay of it: on the device it counts."""
    model, optimizer = trained(NVRMSGD, lr=0.1, momentum=0.9, **options)
    capturing(True)
    optimizer.step()
    capturing(False)

    def replay():
        for state in optimizer.state.values():
            state["step"] += 1

    return model, optimizer, replay


@every_storage
def test_a_replay_in_evaluation_mode_is_noticed(masters, capturing):
    model, optimizer, replay = captured(capturing, master_weights=masters)
    with optimizer.denoised():
        pass
    replay()
    optimizer.eval()
    replay()
    for _ in range(2):  # it stays wrong
        with pytest.raises(RuntimeError, match="replayed while the noise was off.*Load weights and optimizer"):
            optimizer.train()


@every_storage
def test_a_replay_after_denoise_is_noticed(masters, capturing):
    model, optimizer, replay = captured(capturing, master_weights=masters)
    saved = optimizer.state_dict()
    optimizer.denoise()
    replay()
    for call in (optimizer.step, optimizer.eval, optimizer.denoise):
        with pytest.raises(RuntimeError, match="replayed while the noise was off"):
            call()
    optimizer.load_state_dict(saved)
    optimizer.step()
