"""Devices without float64: what travels to the CPU and back. No such device is needed; copies stand for the travel."""

import pytest
import torch
from direction_operands import operands as direction_operands
from steps import RULES, arguments_of, assert_same, copy_of, make_lists, run, with_noise
from stochastic_operands import operands as stochastic_operands

from nvrm_fast.contract.arguments import StepArguments
from nvrm_fast.ops import registry
from nvrm_fast.ops.by_way_of_cpu import WITHOUT_FLOAT64, by_way_of_cpu, to_cpu

CPU = torch.device("cpu")
STEP = torch.ops.nvrm_fast.step_.default


def on_the_cpu(operator, name):
    return by_way_of_cpu(lambda: operator._schema, lambda *args: registry.kernel(name, CPU)(*args))


@pytest.mark.parametrize("device", WITHOUT_FLOAT64)
def test_torch_has_a_kernel_for_the_device(device):
    """Of every operator, by whichever way it is called: the dispatcher's, and the registry's."""
    for name in registry.operators():
        operator = f"nvrm_fast::{name}"
        if name in ("fill_noise_", "step_", "reperturb_", "measure_"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(operator, device.upper()), name
            assert registry.registered(name, "reference", device) is not registry.registered(name, "reference", "meta")
        elif name != "noise_at":  # which is no operator: a function of tensors
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{operator}.reference", device.upper()), name


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("name", RULES)
def test_steps(name, masters):
    lists = make_lists(
        [(0,), (1,), (129,), (3, 5, 7)], name, torch.float32, masters, lambda x: x.t() if x.dim() == 2 else x
    )
    expected = run(lists, name, backend="reference")
    here = {k: [copy_of(x) if isinstance(x, torch.Tensor) else x for x in v] for k, v in with_noise(lists).items()}
    before = [x._version for x in here["params"]]
    on_the_cpu(STEP, "step_")(*arguments_of(name, here))
    assert_same({k: v for k, v in here.items() if v and isinstance(v[0], torch.Tensor)}, expected, name)
    assert all(x._version > version for x, version in zip(here["params"], before))  # autograd hears of it


def test_a_counter_of_two_parameters_counts_both():
    """As it does where nothing travels."""
    lists = make_lists([(9,), (5,)], "momentum", torch.float32, False)
    counter = torch.tensor(5)
    arguments = arguments_of("momentum", {**with_noise(lists), "steps": [counter, counter]})
    on_the_cpu(STEP, "step_")(*arguments)
    assert counter == 7


def test_the_kernel_is_given_copies_and_only_what_is_written_comes_back():
    lists = with_noise(make_lists([(9,)], "sgd", torch.float32, False))
    arguments = arguments_of("sgd", lists)
    grad = lists["grads"][0].clone()

    def kernel(*args):
        a = StepArguments(*args)
        assert a.params[0].data_ptr() != arguments.params[0].data_ptr()
        a.params[0].fill_(1.0)
        a.grads[0].fill_(2.0)

    by_way_of_cpu(lambda: STEP._schema, kernel)(*arguments)
    assert arguments.params[0].eq(1).all() and torch.equal(arguments.grads[0], grad)


def test_a_refused_step_writes_nothing():
    lists = with_noise(make_lists([(9,), (5,)], "sgd", torch.float32, False))
    lists["grads"][1] = torch.zeros(4)
    before = [x.clone() for x in lists["params"]]
    with pytest.raises(ValueError, match="grads\\[1\\] must have the parameter's shape"):
        on_the_cpu(STEP, "step_")(*arguments_of("sgd", lists))
    assert all(map(torch.equal, lists["params"], before))


def test_layers():
    operator = torch.ops.nvrm_fast
    inputs, settings = direction_operands(1, 0, (3, 5, 2))
    kernel = on_the_cpu(operator.direction_noise.reference, "direction_noise")
    assert torch.equal(kernel(*inputs, *settings), operator.direction_noise.reference(*inputs, *settings))
    z, key, grad, sums, settings = stochastic_operands((3, 5, 2), 1)
    kernel = on_the_cpu(operator.stochastic_activation.reference, "stochastic_activation")
    expected = operator.stochastic_activation.reference(z, key, *settings)
    torch.testing.assert_close(kernel(z, key, *settings), expected)  # sums differ in the order of their terms
    assert torch.equal(kernel(z, key, *settings)[0], expected[0])


def test_to_cpu_leaves_other_devices_alone():
    x = torch.empty(3, device="meta")
    assert to_cpu(x) is x


def test_the_warning_says_what_happens(monkeypatch):
    monkeypatch.setattr(registry, "_warned_of", set())
    with pytest.warns(UserWarning, match="no kernels for mps: tensors travel to the CPU"):
        registry.kernel("step_", torch.device("mps"))
