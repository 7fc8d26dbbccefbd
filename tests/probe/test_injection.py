import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from nvrm_fast import noise
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.probe import NoiseInjection, example_noise
from nvrm_fast.probe.example_noise import drawn_key, elements, key_of_seed


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def nonzero(injection):
    with torch.no_grad():
        injection.weight.fill_(1.0)
    return injection


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_elements_in_any_order_are_the_stream(name):
    seed, offset = 2**63 + 12345, 10**11
    stream = noise(3000, seed=seed, stream=7, step=2**32 - 1, distribution=name, offset=offset)
    index = torch.randperm(3000)
    picked = elements(index + offset, key_of_seed(seed), stream=7, step=2**32 - 1, distribution=DISTRIBUTIONS[name])
    assert picked.dtype == torch.float32 and torch.equal(picked, stream[index])


def test_an_example_keeps_its_noise_whatever_batch_it_is_in():
    key = key_of_seed(3)
    batch = example_noise(torch.tensor([5, 0, 700_000, 5]), 3, key, stream=1)
    assert torch.equal(batch[0], batch[3])
    for row, k in enumerate((5, 0, 700_000)):
        assert torch.equal(batch[row], noise(3, seed=3, stream=1, offset=3 * k))


def test_a_drawn_key_follows_torchs_generator():
    torch.manual_seed(4)
    first = drawn_key()
    torch.manual_seed(4)
    assert torch.equal(first, drawn_key()) and not torch.equal(first, drawn_key())
    assert first.dtype == torch.int64 and 0 <= int(first.min()) and int(first.max()) < 2**32


def test_what_is_added_is_w_eps():
    net = model()
    injection = NoiseInjection(net, "0", sigma=2.0, nodes=3, kind="fixed", seed=9)
    x, k = torch.randn(5, 6), torch.tensor([4, 0, 9, 2, 11])
    with injection.examples(k):
        moved = net[0](x)
    eps = 2.0 * example_noise(k, 3, key_of_seed(9), stream=injection._stream)
    torch.testing.assert_close(moved, nn.functional.linear(x, net[0].weight, net[0].bias) + eps @ injection.weight)


def test_silent_at_evaluation_and_when_off():
    net, x = model(), torch.randn(5, 6)
    clean = net(x)
    injection = nonzero(NoiseInjection(net, "0", sigma=5.0))
    assert not torch.allclose(net(x), clean)
    with injection.off():
        assert torch.equal(net(x), clean)
    net.eval()
    assert torch.equal(net(x), clean)


def test_removed_leaves_the_model_as_it_was():
    net, x = model(), torch.randn(5, 6)
    before, clean = list(net.state_dict()), net(x)
    with NoiseInjection(net, "0", sigma=5.0) as injection:
        assert "0.noise_injection_weight" in net.state_dict()
        assert injection.parameter_name == "0.noise_injection_weight"
    assert list(net.state_dict()) == before and torch.equal(net(x), clean)
    assert not net[0]._forward_hooks
    injection.remove()  # a second time
    NoiseInjection(net, "0", sigma=1.0)  # and a new one


def test_noise_comes_from_the_generator_when_redrawn_and_from_the_index_when_fixed():
    net, x = model(), torch.randn(5, 6)
    redrawn = nonzero(NoiseInjection(net, "0", sigma=1.0))
    torch.manual_seed(1)
    first, second = net(x), net(x)
    torch.manual_seed(1)
    assert torch.equal(net(x), first) and not torch.equal(first, second)
    redrawn.remove()
    fixed = nonzero(NoiseInjection(net, "0", sigma=1.0, kind="fixed", seed=1))
    state = torch.get_rng_state()
    index = torch.tensor([3, 1, 4, 0, 2])
    with fixed.examples(torch.arange(5)):
        first = net(x)
    with fixed.examples(index):
        torch.testing.assert_close(net(x[index]), first[index])
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_and_seeds_differ():
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    one, other = (nonzero(NoiseInjection(net, name, 1.0, kind="fixed")) for name in ("0", "1"))
    assert not torch.equal(one.draw(100), other.draw(100))
    assert not torch.equal(one.draw(100), one.draw(100, seed=1))


@pytest.mark.parametrize("kind", ["redrawn", "fixed"])
def test_backward_recomputes_the_noise_of_its_own_forward(kind):
    net, x, y = model(), torch.randn(7, 6), torch.randint(3, (7,))
    injection = NoiseInjection(net, "0", sigma=3.0, nodes=2, kind=kind)
    index = torch.arange(7) + 20
    with injection.examples(index):
        torch.manual_seed(2)
        loss = cross_entropy(net(x), y)
    injection.sigma = 100.0  # what happens after the forward pass is no concern of its backward
    torch.randn(50)
    loss.backward()
    torch.manual_seed(2)
    key = key_of_seed(0) if kind == "fixed" else drawn_key()
    eps = example_noise(index if kind == "fixed" else torch.arange(7), 2, key, stream=injection._stream) * 3.0
    weight = injection.weight.detach().requires_grad_()
    hidden = torch.relu(nn.functional.linear(x, net[0].weight, net[0].bias) + eps @ weight)
    cross_entropy(net[2](hidden), y).backward()
    torch.testing.assert_close(injection.weight.grad, weight.grad)


def test_gradients_against_finite_differences():
    net = model().double()
    injection = NoiseInjection(net, "0", sigma=0.5, nodes=2, kind="fixed")
    x = torch.randn(4, 6, dtype=torch.float64)

    def outputs(weight, x):
        with injection.examples(torch.arange(4)):
            return functional_call(net, {injection.parameter_name: weight}, (x,))

    inputs = (injection.weight.detach().requires_grad_(), x.requires_grad_())
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs)


def test_no_noise_tensor_is_saved():
    net = nn.Sequential(nn.Linear(6, 512))
    NoiseInjection(net, "0", sigma=1.0)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        net(torch.randn(100, 6))
    # The linear layer saves its input and weight; the node its key of two integers.
    assert sum(t.numel() for t in saved) <= 100 * 6 + 512 * 6 + 2


def test_it_goes_through_activation_checkpointing():
    net, x = model(), torch.randn(7, 6)
    injection = NoiseInjection(net, "0", sigma=3.0)
    grads = []
    for wrapped in (False, True):
        torch.manual_seed(5)
        out = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False) if wrapped else net(x)
        injection.weight.grad = None
        out.square().sum().backward()
        grads.append(injection.weight.grad)
    assert torch.equal(*grads)


def test_the_users_optimizer_trains_it_and_the_state_dict_carries_it():
    net, x, y = model(), torch.randn(64, 6), torch.randint(3, (64,))
    injection = NoiseInjection(net, "0", sigma=1.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    before = injection.weight.detach().clone()
    cross_entropy(net(x), y).backward()
    optimizer.step()
    assert not torch.equal(injection.weight, before)
    other = model(1)
    NoiseInjection(other, "0", sigma=1.0)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other[0].noise_injection_weight, injection.weight)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_have_their_own_node(duplicate):
    net, x = model(), torch.randn(5, 6)
    nonzero(NoiseInjection(net, "0", sigma=1.0))
    twin = duplicate(net)
    with torch.no_grad():
        net[0].noise_injection_weight.zero_()
    torch.manual_seed(1)
    assert not torch.allclose(twin(x), net(x))


@pytest.mark.parametrize(
    "layer, shape, dim",
    [
        (nn.Linear(4, 5), (7, 4), -1),
        (nn.Linear(4, 5), (7, 3, 4), -1),
        (nn.Conv1d(2, 5, 3), (7, 2, 9), 1),
        (nn.Conv2d(4, 5, 3, groups=1), (7, 4, 6, 6), 1),
        (nn.ConvTranspose2d(2, 5, 3), (7, 2, 4, 4), 1),
    ],
)
def test_layers_have_one_weight_a_feature_and_one_eps_an_example(layer, shape, dim):
    net = nn.Sequential(layer).double()
    x = torch.randn(shape, dtype=torch.float64)
    clean = net(x)
    injection = NoiseInjection(net, "0", sigma=1.0, kind="fixed")
    with injection.examples(torch.arange(7)):
        moved = net(x) - clean
        eps = example_noise(torch.arange(7), 1, key_of_seed(0), stream=injection._stream).double()
        wanted = (eps @ injection.weight).movedim(1, dim) if dim == -1 else eps @ injection.weight
        shape = [7] + [1] * (clean.dim() - 1)
        shape[dim] = 5
        torch.testing.assert_close(moved, wanted.view(shape).expand_as(clean))
        assert torch.autograd.gradcheck(
            lambda w: functional_call(net, {injection.parameter_name: w}, (x,)),
            injection.weight.detach().requires_grad_(),
            fast_mode=True,
        )


def test_other_layers_need_their_features():
    net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(0, 1))
    with pytest.raises(ValueError, match="features="):
        NoiseInjection(net, "0", sigma=1.0)
    NoiseInjection(net, "0", sigma=1.0, features=4)
    assert net(torch.randint(10, (5, 3))).shape == (15, 4)


def test_the_start_is_one_over_the_root_of_the_fan_in():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 20_000), nn.Conv2d(3, 20_000, 5))
    for name, fan_in in (("0", 100), ("1", 75)):
        # The standard deviation's own is sigma / sqrt(2 n): five of them, one false alarm in two million seeds.
        std = float(NoiseInjection(net, name, sigma=1.0).weight.detach().std())
        assert abs(std * math.sqrt(fan_in) - 1) < 5 / math.sqrt(2 * 20_000)
    assert float(NoiseInjection(model(), "0", 1.0, weight_std=0.0).weight.detach().norm()) == 0


@pytest.mark.parametrize("name, factor", [("gaussian", 1.0), ("uniform", 1 / 3), ("laplace", 2.0), ("rademacher", 1.0)])
def test_the_variance_of_each_law(name, factor):
    injection = NoiseInjection(model(), "0", sigma=3.0, distribution=name)
    assert injection.variance == pytest.approx(9 * factor)
    # Laplace's fourth moment is the largest, 24: five standard errors of the mean square.
    assert float(injection.draw(40_000).square().mean()) == pytest.approx(9 * factor, rel=5 * math.sqrt(5 / 40_000))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    net = model().to(dtype)
    injection = NoiseInjection(net, "0", sigma=1.0)
    out = net(torch.randn(5, 6, dtype=dtype))
    out.sum().backward()
    assert out.dtype == injection.weight.dtype == injection.weight.grad.dtype == dtype


def test_autocast():
    net = model()
    injection = NoiseInjection(net, "0", sigma=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(torch.randn(5, 6))
    out.float().sum().backward()
    assert injection.weight.grad.dtype == torch.float32 and torch.isfinite(injection.weight.grad).all()


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        ({"layer": "fc9"}, KeyError, "'fc9' is not in the model; its layers: '0', '1', '2'"),
        ({"sigma": -1.0}, ValueError, "sigma must be finite and not negative, got -1"),
        ({"sigma": math.nan}, ValueError, "sigma must be"),
        ({"nodes": 0}, ValueError, "nodes must be 1 or more"),
        ({"kind": "frozen"}, ValueError, "kind must be one of redrawn, fixed"),
        ({"distribution": "cauchy"}, ValueError, "distribution must be one of"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"features": 9}, ValueError, "features is 9, but layer '0' returns 8"),
    ],
)
def test_bad_arguments(arguments, error, says):
    net = model()
    with pytest.raises(error, match=says):
        NoiseInjection(net, **({"layer": "0", "sigma": 1.0} | arguments))
    assert not hasattr(net[0], "noise_injection_weight") and not net[0]._forward_hooks


def test_bad_use():
    net, x = model(), torch.randn(5, 6)
    injection = NoiseInjection(net, "0", sigma=1.0, kind="fixed")
    with pytest.raises(ValueError, match="has a noise injection already"):
        NoiseInjection(net, "0", sigma=1.0)
    with pytest.raises(RuntimeError, match="injection.examples"):
        net(x)
    with injection.examples(torch.arange(4)), pytest.raises(ValueError, match="4 indices do not fit a batch of 5"):
        net(x)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        injection.examples(torch.tensor([0, -1]))
    with pytest.raises(TypeError, match="indices must be int64"):
        injection.examples(torch.zeros(3))
    with injection.examples(torch.arange(1)), pytest.raises(ValueError, match="must return"):
        net(torch.randn(6))
