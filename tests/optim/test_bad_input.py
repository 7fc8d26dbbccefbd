"""Bad input gets an error that names the argument, and nothing is written."""

import copy

import pytest
import torch

from nvrm_fast import NVRMSGD, SGLD, NVRMAdam, NVRMAdamW, PerturbedSGD

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam, NVRMAdamW, PerturbedSGD])
@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(lr=-0.1), ValueError, "Invalid learning rate"),
        (dict(lr=NAN), ValueError, "Invalid learning rate"),
        (dict(lr=INFINITY), ValueError, "Invalid learning rate"),
        (dict(weight_decay=-1), ValueError, "Invalid weight_decay"),
        (dict(variability=-0.1), ValueError, "Invalid variability"),
        (dict(variability=NAN), ValueError, "Invalid variability"),
        (dict(noise="cauchy"), ValueError, "noise must be one of gaussian, uniform, laplace"),
        (dict(seed=-1), ValueError, "seed must be in"),
        (dict(seed=2**64), ValueError, "seed must be in"),
        (dict(seed=1.5), TypeError, "seed must be an int"),
        (dict(master_weights="yes"), ValueError, "master_weights must be None, True or False"),
        (dict(backend="cuda"), ValueError, "backend must be one of"),
        (dict(differentiable=True), ValueError, "differentiable=True is not supported"),
        (dict(variability=1e39), ValueError, "Invalid variability"),
        (dict(noise=["gaussian"]), ValueError, "noise must be one of"),
        (dict(lr=None), TypeError, "lr must be a number"),
        (dict(lr="0.1"), TypeError, "lr must be a number"),
        (dict(variability="0.1"), TypeError, "variability must be a number"),
        (dict(seed=torch.zeros(()).numpy().astype("int64")[()]), TypeError, r"use int\(seed\)"),
        (dict(maximize="no"), TypeError, "maximize must be True or False"),
        (dict(capturable=1), TypeError, "capturable must be True or False"),
        (dict(master_weights=1), ValueError, "master_weights must be None, True or False"),
    ],
)
def test_common_options(cls, options, error, message):
    with pytest.raises(error, match=message):
        cls([torch.nn.Parameter(torch.zeros(2))], **options)


@pytest.mark.parametrize(
    "cls, options, message",
    [
        (NVRMSGD, dict(momentum=-1), "Invalid momentum"),
        (NVRMSGD, dict(nesterov=True), "Nesterov momentum requires"),
        (NVRMSGD, dict(dampening=NAN), "Invalid dampening"),
        (NVRMSGD, dict(denoise_every=0), "denoise_every must be"),
        (NVRMAdam, dict(betas=(1.0, 0.9)), "Invalid beta parameter at index 0"),
        (NVRMAdam, dict(betas=(0.9, -0.1)), "Invalid beta parameter at index 1"),
        (NVRMAdam, dict(eps=-1), "Invalid epsilon"),
        (NVRMAdam, dict(decorrelate_ranks=True, master_weights=False), "decorrelate_ranks=True needs master weights"),
        (SGLD, dict(temperature=-1), "Invalid temperature"),
    ],
)
def test_options_of_one_class(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls([torch.nn.Parameter(torch.zeros(2))], **options)


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 0.99, 0.999), 0.9, None])
def test_betas_are_two_numbers(betas):
    with pytest.raises(TypeError, match="betas must be two numbers"):
        NVRMAdam([torch.nn.Parameter(torch.zeros(2))], betas=betas)


def test_decorrelate_ranks_is_a_flag():
    with pytest.raises(TypeError, match="decorrelate_ranks must be True or False"):
        NVRMAdam([torch.nn.Parameter(torch.zeros(2))], decorrelate_ranks="yes")


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])
def test_lazy_parameters_are_taken(cls):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LazyLinear(3))
    optimizer = cls(model.parameters(), lr=0.1, variability=0.1)
    model(torch.ones(2, 4)).sum().backward()
    before = model[1].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model[1].weight)


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "_is_flat_param"])
def test_fsdp1_is_refused(mark):
    """torch marks its parameters so: with and without use_orig_params."""
    param = torch.nn.Parameter(torch.zeros(4))
    setattr(param, mark, True)
    with pytest.raises(ValueError, match="parameter 'w' belongs to FullyShardedDataParallel.*use fully_shard"):
        NVRMSGD([("w", param)])


def test_the_constructor_looks_at_every_parameter_a_fixed_number_of_times(monkeypatch):
    """Linear in the number of groups: twice as many cost twice as many looks."""
    from nvrm_fast.optim import checks

    looks = []
    real = checks.local_tensor
    monkeypatch.setattr(checks, "local_tensor", lambda x: (looks.append(1), real(x))[1])
    counts = []
    for n in (50, 100):
        looks.clear()
        NVRMSGD([{"params": [torch.nn.Parameter(torch.zeros(2))]} for _ in range(n)])
        counts.append(len(looks))
    assert counts[1] == 2 * counts[0] > 0


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])
def test_bad_parameters(cls):
    with pytest.raises(TypeError, match=r"parameter 'w' is torch.complex64"):
        cls([("w", torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64)))])
    with pytest.raises(TypeError, match=r"parameter 0 \(pass named_parameters"):
        cls([torch.zeros(2, dtype=torch.int32)])
    with pytest.raises(ValueError, match="empty parameter list"):
        cls([])
    good = cls([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(TypeError, match="complex"):
        good.add_param_group(dict(params=[torch.zeros(2, dtype=torch.complex64)]))
    assert len(good.param_groups) == 1


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])
def test_a_refused_step_writes_nothing(cls):
    """The last parameter of the last group is bad: the first is not touched either."""
    first = torch.nn.Parameter(torch.ones(200))
    embedding = torch.nn.Embedding(4, 3, sparse=True)
    optimizer = cls([dict(params=[first]), dict(params=[embedding.weight])], variability=0.1)
    first.grad = torch.ones(200)
    embedding(torch.tensor([1])).sum().backward()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(RuntimeError, match=r"parameter 1 \(pass named_parameters.*sparse=False"):
        optimizer.step()
    assert torch.equal(first, torch.ones(200))
    assert optimizer.state_dict() == before
    embedding.weight.grad = None
    optimizer.param_groups[1]["variability"] = NAN
    with pytest.raises(ValueError, match="Invalid variability"):
        optimizer.step()
    assert torch.equal(first, torch.ones(200)) and not optimizer.state


CLASSES = [NVRMSGD, NVRMAdam, NVRMAdamW, PerturbedSGD, SGLD]


def snapshot(optimizer):
    """Everything that a refused call must leave as it was."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return copy.deepcopy(([p.detach() for p in params], optimizer.state_dict()))


def assert_untouched(before, optimizer):
    (params, saved), (params_now, saved_now) = before, snapshot(optimizer)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(params, params_now))
    assert saved["state"].keys() == saved_now["state"].keys()
    for key, state in saved["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(saved_now["state"][key][name])), name


def trained(cls):
    """Two groups after two steps; the second parameter of the first group is the one to spoil."""
    names = ("first", "victim", "last")
    params = {name: torch.nn.Parameter(torch.linspace(-1, 1, 40).view(5, 8)) for name in names}
    optimizer = cls([
        dict(params=[("first", params["first"]), ("victim", params["victim"])]), dict(params=[("last", params["last"])])
    ], lr=0.01)  # fmt: skip
    for _ in range(2):
        for p in params.values():
            p.grad = torch.ones_like(p)
        optimizer.step()
    return params, optimizer


def sparse_gradient(params, optimizer):
    params["victim"].grad = torch.ones(5, 8).to_sparse()


def smaller_data(params, optimizer):
    params["victim"].data = torch.ones(3)


def smaller_data_and_gradient(params, optimizer):
    params["victim"].grad = None
    params["victim"].data = torch.ones(3)
    params["victim"].grad = torch.ones(3)


def other_dtype(params, optimizer):
    params["victim"].data = params["victim"].data.double()


def integer_data(params, optimizer):
    params["victim"].requires_grad_(False)
    params["victim"].grad = None
    params["victim"].data = torch.ones(5, 8, dtype=torch.int32)
    params["victim"].grad = torch.ones(5, 8, dtype=torch.int32)


def state_of_another(spoil):
    def change(params, optimizer):
        state = optimizer.state[params["victim"]]
        key = next((k for k, v in state.items() if getattr(v, "ndim", 0)), None)
        if key is None:
            pytest.skip("no state but the counter")
        state[key] = spoil(state[key])

    change.__name__ = f"state {spoil.__name__}"
    return change


def shape(x):
    return torch.zeros(7)


def device(x):
    return x.to("meta")


def option(name, value):
    def spoil(params, optimizer):
        if name not in optimizer.param_groups[1]:
            pytest.skip("no such option")
        optimizer.param_groups[1][name] = value

    spoil.__name__ = f"{name}={value!r:.20}"
    return spoil


# What is spoiled after two good steps, the error, and what it says.
BAD_STEPS = [
    (sparse_gradient, RuntimeError, "parameter 'victim' has a sparse gradient.*sparse=False"),
    (smaller_data, ValueError, r"parameter 'victim' has shape \[3\].* and its gradient \[5, 8\].*zero_grad"),
    (
        smaller_data_and_gradient,
        ValueError,
        "parameter 'victim' has .*(reset_state|after optimizer.denoise)",
    ),
    (other_dtype, TypeError, "parameter 'victim' is torch.float64 with a torch.float32 gradient"),
    (integer_data, TypeError, "parameter 'victim' is torch.int32"),
    (state_of_another(device), ValueError, "parameter 'victim' has shape .* on cpu, but its .* on meta"),
    (state_of_another(shape), ValueError, r"parameter 'victim' has shape \[5, 8\].* \[7\]"),
    (option("lr", NAN), ValueError, "Invalid learning rate"),
    (option("variability", -1.0), ValueError, "Invalid variability"),
    (option("variability", INFINITY), ValueError, "Invalid variability"),
    (option("temperature", NAN), ValueError, "Invalid temperature"),
    (option("weight_decay", NAN), ValueError, "Invalid weight_decay"),
    (option("betas", (0.9, 1.0)), ValueError, "Invalid beta parameter at index 1"),
    (option("eps", -1.0), ValueError, "Invalid epsilon"),
    (option("momentum", -0.5), ValueError, "Invalid momentum"),
    (option("seed", 2**64), ValueError, "seed must be in"),
    (option("seed", 1.0), TypeError, "seed must be an int"),
    (option("noise", "pink"), ValueError, "noise must be one of"),
    (option("denoise_every", 0), ValueError, "denoise_every must be"),
    (option("denoise_every", 2.5), TypeError, "denoise_every must be an int"),
    (option("master_weights", "no"), ValueError, "master_weights must be"),
    (option("backend", "fpga"), ValueError, "backend must be one of"),
]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("spoil, error, message", BAD_STEPS, ids=[b[0].__name__ for b in BAD_STEPS])
def test_a_bad_step_in_the_middle_of_training(cls, spoil, error, message):
    params, optimizer = trained(cls)
    spoil(params, optimizer)
    if spoil is smaller_data_and_gradient and cls in (PerturbedSGD, SGLD):
        pytest.skip("without state and without noise other data are welcome")
    others = [p for name, p in params.items() if name != "victim"]
    before = [p.detach().clone() for p in others], copy.deepcopy([optimizer.state[p] for p in others])
    with pytest.raises(error, match=message):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before[0], others))
    for state, p in zip(before[1], others):
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(optimizer.state[p][k])) for k, v in state.items())


@pytest.mark.parametrize("cls", CLASSES)
def test_parameters_that_share_memory(cls):
    whole = torch.zeros(12)
    overlapping = [("a", torch.nn.Parameter(whole[:8])), ("b", torch.nn.Parameter(whole[4:]))]
    with pytest.raises(ValueError, match="parameters 'a' and 'b' share memory"):
        cls(overlapping)
    # Side by side in one storage, or interleaved: no element twice.
    matrix = torch.zeros(4, 6)
    cls([torch.nn.Parameter(whole[:6]), torch.nn.Parameter(whole[6:])])
    cls([torch.nn.Parameter(matrix[:, :3]), torch.nn.Parameter(matrix[:, 3:])])
    optimizer = cls(overlapping[:1])
    with pytest.raises(ValueError, match="share memory"):
        optimizer.add_param_group(dict(params=overlapping[1:]))
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("cls", CLASSES)
def test_one_parameter_twice(cls):
    p = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        cls([dict(params=[p]), dict(params=[p])])
    with pytest.warns(UserWarning, match="duplicate parameters"), pytest.raises(ValueError, match="share memory"):
        cls([p, p])


@pytest.mark.parametrize("cls", CLASSES)
def test_infinite_gradients_spread_no_further(cls):
    """As with torch.optim: the elements with a bad gradient are lost, and no others."""
    p = torch.nn.Parameter(torch.zeros(300))
    optimizer = cls([p], lr=0.01)
    p.grad = torch.ones(300)
    p.grad[[7, 299]] = torch.tensor([NAN, INFINITY])
    optimizer.step()
    assert (~p.isfinite()).nonzero().flatten().tolist() == [7, 299]


@pytest.mark.parametrize("cls", CLASSES)
def test_sparse_and_expanded_parameters(cls):
    with pytest.raises(ValueError, match="is sparse.*keep parameters dense"):
        cls([torch.zeros(3, 3).to_sparse()])
    p = torch.nn.Parameter(torch.zeros(1).expand(5))
    optimizer = cls([p])
    p.grad = torch.ones(5)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="elements that share memory"):
        optimizer.step()
    assert torch.equal(before[0][0], p)


def test_parameters_without_gradient_are_left_alone():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = NVRMSGD([p, q], lr=0.1, variability=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(q, torch.ones(3)) and q not in optimizer.state


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("spoil", [shape, device])
def test_bad_state_of_a_single_group(cls, spoil):
    """A single call is checked by its operator; a tensor on the meta device would keep torch from calling it at all."""
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2)]
    optimizer = cls(params, lr=0.01)
    for p in params:
        p.grad = torch.ones(40)
    optimizer.step()
    state = optimizer.state[params[1]]
    key = next(k for k, v in state.items() if v.ndim)
    good, state[key] = state[key], spoil(state[key])
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match=f"but its {key}"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params))
    state[key] = good.clone()  # another tensor that is as good
    optimizer.step()
    assert not torch.equal(before[1], params[1])
