"""Whoever writes weights wins: every way to write, in both storages, in every mode."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, vector_to_parameters

from nvrm_fast import NVRMSGD, PerturbedSGD

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


def fill(model):
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(3.0)


def assign_data(model):
    for p in model.parameters():
        p.data = torch.full_like(p, 3.0)


def swap(model):
    for p in model.parameters():
        torch.utils.swap_tensors(p, nn.Parameter(torch.full_like(p, 3.0)))


def pruned(model):
    fill(model)
    prune.l1_unstructured(model, "weight", 0.5)
    prune.remove(model, "weight")


def loaded(**options):
    return lambda model: model.load_state_dict(
        {name: torch.full_like(x, 3.0) for name, x in model.state_dict().items()}, **options
    )


def with_inference_mode(model):
    with torch.inference_mode():
        for p in model.parameters():
            p.fill_(3.0)


#: Each leaves every weight at 3, or some at 0.
WRITERS = {
    "fill_": fill,
    "load_state_dict": loaded(),
    "load_state_dict(assign=True)": loaded(assign=True),
    ".data.copy_": lambda model: [p.data.fill_(3.0) for p in model.parameters()],
    ".data =": assign_data,
    "vector_to_parameters": lambda model: vector_to_parameters(torch.full((72,), 3.0), model.parameters()),
    "prune.remove": pruned,
    "swap_tensors": swap,
    "numpy view": lambda model: [p.detach().numpy().fill(3.0) for p in model.parameters()],
    "inference_mode": with_inference_mode,
}


def denoised(optimizer, write):
    with optimizer.denoised():
        write()


def eval_train(optimizer, write):
    optimizer.eval()
    write()
    optimizer.train()


def eval_denoise(optimizer, write):
    optimizer.eval()
    write()
    optimizer.denoise()


def after_denoise(optimizer, write):
    optimizer.denoise()
    write()


MODES = [denoised, eval_train, eval_denoise, after_denoise]


def make(masters, **options):
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    return model, NVRMSGD(model.parameters(), lr=1.0, variability=0.1, master_weights=masters, **options)


def step(model, optimizer, gradient=0.0):
    for p in model.parameters():
        p.grad = torch.full_like(p, gradient)
    optimizer.step()


@STORAGES
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", ["noise on", "b = 0", "denoise_every"])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_written_is_what_training_goes_on_with(writer, scale, mode, masters):
    model, optimizer = make(masters, denoise_every=2 if scale == "denoise_every" else None)
    if scale == "b = 0":
        optimizer.param_groups[0]["variability"] = 0.0
    step(model, optimizer)
    step(model, optimizer)
    names, written = [name for name, _ in model.named_parameters()], []

    def write():
        WRITERS[writer](model)
        written.extend(model.state_dict()[name].clone() for name in names)  # prune changes the order

    mode(optimizer, write)
    step(model, optimizer)
    step(model, optimizer, gradient=1.0)
    optimizer.denoise()
    if writer == "load_state_dict(assign=True)":  # the model has new parameters, which no optimizer knows
        assert all(torch.equal(model.state_dict()[name], before) for name, before in zip(names, written))
        return
    for p, before in zip(optimizer.param_groups[0]["params"], written):
        torch.testing.assert_close(p.detach(), before - 1, rtol=0, atol=2e-6)


@pytest.mark.parametrize("b", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_masters_take_over_what_is_written_under_the_noise(b, dtype):
    """As max_norm of an embedding does, or an averager: a write that raises a version, as a difference."""
    model, optimizer = make(True)
    model.to(dtype)
    optimizer.param_groups[0]["variability"] = b
    step(model, optimizer)
    clean = [optimizer.state[p]["master_param"].clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p[:4].add_(1.0)
    step(model, optimizer)
    for p, before in zip(model.parameters(), clean):
        after = optimizer.state[p]["master_param"]
        assert torch.equal(after[4:], before[4:])  # nobody wrote these
        # Two roundings of bfloat16 near 2, half a spacing (2^-8) each, where the sum is rounded.
        torch.testing.assert_close(after[:4], before[:4] + 1, rtol=0, atol=1e-6 if dtype == torch.float32 else 2**-7)


@STORAGES
def test_two_optimizers_take_turns_on_the_same_parameters(masters):
    param = nn.Parameter(torch.zeros(1000))
    optimizers = [
        NVRMSGD([param], lr=0.5, variability=0.1, seed=seed, master_weights=masters) for seed in (0, 1)
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="carried noise that this optimizer's state does not know"):
        for _ in range(5):
            for optimizer in optimizers:
                param.grad = torch.ones(1000)
                optimizer.step()
    for optimizer in optimizers:
        optimizer.denoise()
    torch.testing.assert_close(param.detach(), torch.full((1000,), -5.0), rtol=0, atol=2e-5)


@pytest.mark.parametrize("masters", [False, True])
def test_written_weights_of_an_optimizer_whose_noise_stays(masters):
    param = nn.Parameter(torch.zeros(50))
    optimizer = PerturbedSGD([param], lr=1.0, variability=0.0, master_weights=masters)
    for _ in range(2):
        param.grad = torch.ones(50)
        optimizer.step()
        param.data.fill_(7.0)
    optimizer.step()
    assert torch.equal(param, torch.full((50,), 6.0))


@pytest.mark.parametrize("call", ["denoise", "eval", "step"])
def test_a_model_that_was_cast_to_double(call):
    """Its float32 masters are float64 from then on."""
    torch.manual_seed(0)
    model = nn.Linear(8, 8).bfloat16()
    optimizer = NVRMSGD(model.parameters(), lr=0.0, variability=0.1)
    step(model, optimizer)
    clean = [optimizer.state[p]["master_param"].double() for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    model.double()
    if call == "step":
        step(model, optimizer)
        optimizer.denoise()
    else:
        getattr(optimizer, call)()
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), clean))
