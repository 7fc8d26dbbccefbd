"""Evaluation mode is part of the state: what is saved in it has clean weights and goes on bit for bit."""

import copy
import io
import pickle

import pytest
import torch
from training import Model, same, train, weights

from nvrm_fast import NVRMSGD, NVRMAdam

every_class = pytest.mark.parametrize(
    "cls, options", [(NVRMSGD, dict(lr=0.1, momentum=0.9)), (NVRMAdam, dict(lr=0.01))]
)
STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def through_a_file(*states):
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_class
@STORAGES
@DTYPES
def test_saved_clean_and_resumed_exactly(cls, options, masters, dtype):
    """One file: clean weights for whoever reads the model only, the noise for whoever trains on."""
    straight = Model(dtype)
    optimizer = cls(straight.parameters(), variability=0.05, master_weights=masters, **options)
    train(straight, optimizer, 4)
    noisy = weights(straight)
    with optimizer.denoised():
        clean = weights(straight)
        model_state, state = through_a_file(straight.state_dict(), optimizer.state_dict())
    assert same(model_state, clean) and not same(clean, noisy)

    resumed = Model(dtype)
    resumed.load_state_dict(model_state)
    again = cls(resumed.parameters(), variability=0.3, master_weights=masters, **options)
    again.load_state_dict(state)
    assert same(weights(resumed), clean)
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) first"):
        again.step()
    again.train()
    assert same(weights(resumed), noisy)
    train(straight, optimizer, 3, start=4)
    train(resumed, again, 3, start=4)
    assert same(weights(straight), weights(resumed))
    assert not any(
        key in state for state in again.state.values() for key in ("suspended_perturbation", "suspended_param")
    )


@every_class
@STORAGES
@DTYPES
@pytest.mark.parametrize("model_first", [True, False])
def test_loaded_in_either_order(cls, options, masters, dtype, model_first):
    """The weights that come after the optimizer are known for the ones that were there: masters keep their bits."""
    model = Model(dtype)
    optimizer = cls(model.parameters(), variability=0.05, master_weights=masters, **options)
    train(model, optimizer, 4)
    noisy = weights(model)
    optimizer.eval()
    states = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    optimizer.train()

    again = cls((resumed := Model(dtype)).parameters(), variability=0.3, master_weights=masters, **options)
    parts = [(resumed, states[0]), (again, states[1])]
    for part, state in parts if model_first else parts[::-1]:
        part.load_state_dict(state)
    again.train()
    assert same(weights(resumed), noisy)
    train(model, optimizer, 3, start=4)
    train(resumed, again, 3, start=4)
    optimizer.denoise()
    again.denoise()
    assert same(weights(model), weights(resumed))


@every_class
@STORAGES
@pytest.mark.parametrize("loaded_meanwhile", [False, True])
def test_other_weights_put_in_meanwhile_stay(cls, options, masters, loaded_meanwhile):
    """The best model, say: train() puts the noise on it, and does not bring the old weights back."""
    model, best = Model(), {name: 2 * p for name, p in weights(Model()).items()}
    optimizer = cls(model.parameters(), variability=0.05, master_weights=masters, **options)
    train(model, optimizer, 2)
    optimizer.eval()
    if loaded_meanwhile:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    model.load_state_dict(best)
    optimizer.train()
    assert not same(weights(model), best)
    optimizer.denoise()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), best[name], rtol=0, atol=0 if masters else 1e-6)


@every_class
@STORAGES
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_copies_made_in_evaluation_mode(cls, options, masters, way):
    model = Model()
    optimizer = cls(model.parameters(), variability=0.05, master_weights=masters, **options)
    train(model, optimizer, 3)
    noisy = weights(model)
    optimizer.eval()
    both = (model, optimizer)
    twin, again = pickle.loads(pickle.dumps(both)) if way == "pickle" else copy.deepcopy(both)
    again.train()
    optimizer.train()
    assert same(weights(twin), noisy) and same(weights(model), noisy)


@every_class
@STORAGES
def test_loading_decides_the_mode(cls, options, masters):
    """A checkpoint taken with noise on ends evaluation mode, and nothing of the old noise comes back."""
    model = Model()
    optimizer = cls(model.parameters(), variability=0.05, master_weights=masters, **options)
    train(model, optimizer, 2)
    early = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 2, start=2)
    late = weights(model)
    optimizer.eval()
    model.load_state_dict(early[0])
    optimizer.load_state_dict(early[1])
    optimizer.train()
    assert same(weights(model), early[0])
    train(model, optimizer, 2, start=2)
    assert same(weights(model), late)


def test_denoise_in_evaluation_mode_is_for_good():
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.05)
    train(model, optimizer, 2)
    optimizer.eval()
    clean = weights(model)
    optimizer.denoise()
    optimizer.train()
    assert same(weights(model), clean)


def test_torch_reads_what_was_saved_in_evaluation_mode():
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1, momentum=0.9, variability=0.05)
    train(model, optimizer, 2)
    optimizer.eval()
    theirs = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    theirs.load_state_dict(optimizer.state_dict())
    train(model, theirs, 1, start=2)


@STORAGES
@pytest.mark.parametrize("b", [0.05, 0.0])
def test_a_step_that_the_host_does_not_see(masters, b):
    """As when a captured graph is replayed in evaluation mode, or after denoise(): the operator runs on the tensors
    that it was captured with. Its weights and noise stay; train() brings nothing of the old ones back."""
    from nvrm_fast.ops.step import step_
    from nvrm_fast.optim import base

    model = Model()
    captured = []
    optimizer = NVRMSGD(model.parameters(), lr=0.1, momentum=0.9, variability=b, master_weights=masters)
    train(model, optimizer, 2)
    at_once = base.steps_
    try:
        base.steps_ = lambda calls: captured.extend(calls) or at_once(calls)
        base.step_ = lambda arguments, backend: (captured.append(arguments), step_(arguments, backend=backend))
        train(model, optimizer, 1, start=2)
    finally:
        base.steps_, base.step_ = at_once, step_
    twin_model, twin = copy.deepcopy((model, optimizer))
    optimizer.eval()
    clean = weights(model)
    step_(captured[0])
    optimizer.train()
    assert not same(weights(model), clean)
    # Against a step by the host, with the gradients that were captured.
    for p, q in zip(model.parameters(), twin_model.parameters()):
        q.grad = p.grad
    twin.denoise()
    twin.step()
    assert same(weights(model), weights(twin_model))
    optimizer.denoise()
    twin.denoise()
    assert same(weights(model), weights(twin_model))
    step_(captured[0])
    twin.step()
    assert same(weights(model), weights(twin_model))
