"""What to_noisy and to_plain keep, what they refuse by name, what they say; torch.fx; samples of shaped outputs."""

import warnings

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, prune

from nvrm_fast import nn as noisy

KINDS = {
    "direction": {"direction": noisy.Projected(0.1)}, "stochastic": {}, "variational": {}, "gaussian": {"alpha": 0.1},
}  # fmt: skip
ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


def small():
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def trainable(model):
    return [p.requires_grad for p in model.parameters()]


@ALL_KINDS
def test_frozen_layers_stay_frozen(kind):
    model = small()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    twin = noisy.to_noisy(model, kind, **KINDS[kind])
    assert not any(trainable(twin[0])) and not twin[2].bias.requires_grad
    assert all(p.requires_grad for name, p in twin[2].named_parameters() if name != "bias")
    assert trainable(noisy.to_plain(twin)) == trainable(model) == [False, False, True, False]


@ALL_KINDS
def test_hooks_of_calls_are_kept(kind):
    model, calls = small(), []
    model[0].register_forward_hook(lambda *_: calls.append("forward"))
    model[0].register_forward_pre_hook(lambda module, args, kwargs: calls.append("before"), with_kwargs=True)
    model[0].register_full_backward_hook(lambda *_: calls.append("backward"))
    twin = noisy.to_noisy(model, kind, **KINDS[kind])
    for network in (twin, noisy.to_plain(twin)):
        calls.clear()
        network(torch.randn(2, 8, requires_grad=True)).sum().backward()
        assert calls == ["before", "forward", "backward"]


def test_hooks_of_the_state_are_refused():
    model = small()
    model[0].register_state_dict_post_hook(lambda *_: None)
    with pytest.raises(ValueError, match="layer '0' \\(Linear\\) has state_dict hooks"):
        noisy.to_noisy(model, direction=noisy.Projected(0.1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x):
        return self.head(self.tokens(x))


@ALL_KINDS
def test_tied_weights(kind):
    if kind == "gaussian":
        twin = noisy.to_noisy(Tied(), kind, **KINDS[kind])
        assert twin.head.weight is twin.tokens.weight and isinstance(twin.head, noisy.GaussianDropoutLinear)
        assert noisy.to_plain(twin).head.weight.shape == (5, 8)
        return
    with pytest.raises(ValueError, match="layer 'head' .* shares its weight with tokens.weight.* untie them"):
        noisy.to_noisy(Tied(), kind, **KINDS[kind])


def test_one_layer_under_two_names_in_any_order():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": shared})
    twin = noisy.to_noisy(model, direction=noisy.Projected(0.1))
    assert twin["b"] is twin["a"][0] and isinstance(twin["b"], noisy.DirectionLinear)


@ALL_KINDS
@pytest.mark.parametrize("nested", [False, True])
def test_transformer_encoders_in_eval(kind, nested):
    """Their fast path would read weights and make no noise."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2) if nested else layer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # attention is left as it is
        twin = noisy.to_noisy(model, kind, **KINDS[kind]).eval()
    x, mask = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False] * 3 + [True]])
    with torch.no_grad():
        assert not torch.equal(twin(x), twin(x))
        assert not torch.equal(twin(x, src_key_padding_mask=mask), twin(x, src_key_padding_mask=mask))
        if kind != "variational":
            with noisy.noise_mode(twin, "mean"):
                torch.testing.assert_close(twin(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def loaded_checkpoint(dress):
    trained, model = (nn.Sequential(dress(nn.Linear(8, 6)), nn.Linear(6, 3)) for _ in range(2))
    with torch.no_grad():
        model(torch.randn(5, 8))
    model.load_state_dict(trained.state_dict())
    return model


def after_a_step(dress):
    model = nn.Sequential(dress(nn.Linear(8, 6)), nn.Linear(6, 3))
    model(torch.randn(5, 8)).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.5).step()
    return model


HOOKS = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("how", [loaded_checkpoint, after_a_step])
@pytest.mark.parametrize("hook", HOOKS)
@ALL_KINDS
def test_weights_that_hooks_compute_are_refused(kind, hook, how):
    """Or left alone, where `where` leaves them out: also right after training, when torch cannot copy them."""
    model = how(HOOKS[hook])
    with pytest.raises(ValueError, match="layer '0' \\(Linear\\) computes its weight before each pass"):
        noisy.to_noisy(model, kind, **KINDS[kind])
    twin = noisy.to_noisy(model, kind, where=lambda name, layer: name == "1", **KINDS[kind])
    x = torch.randn(4, 8)
    if kind != "variational":
        with torch.no_grad(), noisy.noise_mode(twin, "mean"):
            torch.testing.assert_close(twin.eval()(x), model.eval()(x))


NOT_CONVERTED = {
    "LSTM": lambda: nn.LSTM(8, 6), "LazyLinear": lambda: nn.LazyLinear(6),
    "MultiheadAttention": lambda: nn.MultiheadAttention(8, 2), "ConvTranspose1d": lambda: nn.ConvTranspose1d(5, 5, 3),
    "ParametrizedLinear": lambda: parametrizations.weight_norm(nn.Linear(8, 6)),
    "Bilinear": lambda: nn.Bilinear(8, 8, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_CONVERTED)
@ALL_KINDS
def test_what_is_not_converted_is_said(kind, name):
    layer = NOT_CONVERTED[name]()
    with pytest.raises(ValueError, match=f"nothing was converted: .*{name}"):
        noisy.to_noisy(nn.Sequential(layer), kind, **KINDS[kind])
    model = nn.ModuleDict({"odd": layer, "head": nn.Linear(6, 3)})
    with pytest.warns(UserWarning, match=f"without noise: odd \\({name}\\)$"):
        twin = noisy.to_noisy(model, kind, **KINDS[kind])
    assert [name for name, _ in noisy.noisy_modules(twin)] == ["head"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noisy.to_noisy(model, kind, where=lambda name, layer: name == "head", **KINDS[kind])
    with pytest.raises(ValueError, match="where chose none"):
        noisy.to_noisy(nn.Sequential(nn.ReLU()), kind, **KINDS[kind])


@ALL_KINDS
def test_to_plain_leaves_no_noise(kind):
    x = torch.randn(4, 8)
    model = noisy.to_noisy(small(), kind, **KINDS[kind])
    model = nn.Sequential(noisy.SignalNoise(noisy.Projected(0.1)), *model, noisy.GaussianDropout(0.1)).eval()
    plain = noisy.to_plain(model)
    assert not noisy.noisy_modules(plain) and torch.equal(plain(x), plain(x))
    with noisy.noise_mode(model, "mean"):
        torch.testing.assert_close(plain(x), model(x))
    images = noisy.to_noisy(
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, groups=2, padding_mode="circular")), kind, **KINDS[kind]
    )
    plain = noisy.to_plain(images)
    with noisy.noise_mode(images, "mean"):
        torch.testing.assert_close(plain(torch.ones(1, 2, 8, 8)), images(torch.ones(1, 2, 8, 8)))
    assert type(plain[0]) is nn.Conv2d


class Own(noisy.NoisyModule):
    def forward(self, x):
        return x + 1 if self.mode == "mean" else x + 1 + torch.randn_like(x)


class OwnWithPlain(Own):
    def to_plain(self):
        return nn.Identity()


def test_noisy_layers_of_the_users_own():
    with pytest.raises(ValueError, match="no plain layer for 0 \\(Own\\)"):
        noisy.to_plain(nn.Sequential(Own()))
    assert type(noisy.to_plain(nn.Sequential(OwnWithPlain()))[0]) is nn.Identity


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


@ALL_KINDS
def test_fx_records_layers_as_leaves(kind):
    model, x = noisy.to_noisy(Net(), kind, **KINDS[kind]), torch.randn(2, 3, 8, 8)
    noisy.set_noise_mode(model, "fixed", seed=1)
    traced = fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["conv", "head"]
    traced.head.mode = "mean"  # the layer itself is in the traced model
    assert not torch.equal(traced(x), model(x)) or model.head.mode == "mean"
    with pytest.raises(TypeError, match="is a leaf of torch.fx"):
        fx.symbolic_trace(model.head)
    assert fx.symbolic_trace(nn.Sequential(Own()))(x).shape == x.shape


TINY = {"direction": noisy.Projected(1e-14)}  # so little noise that every sample must equal one plain pass


class Recurrent(nn.Module):
    """torch's own default: (sequence, batch, features)."""

    def __init__(self, kind, **options):
        super().__init__()
        self.body, self.head = kind(8, 16, **options), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x)[0])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        mask = torch.full((len(x), len(x)), -torch.inf).triu(1)
        return self.head(self.body(x, x, x, attn_mask=mask)[0])


@pytest.mark.parametrize(
    "make, first",
    [
        (lambda: Recurrent(nn.LSTM, batch_first=True), True), (lambda: Recurrent(nn.LSTM), False),
        (lambda: Recurrent(nn.GRU), False), (Attention, False),
    ],
)  # fmt: skip
def test_samples_of_sequence_first_models(make, first):
    model = noisy.to_noisy(make(), where=lambda name, layer: name == "head", **TINY).eval()
    x = torch.randn(5, 4, 8)
    one = model(x)
    if not first:
        with pytest.raises(ValueError, match="body .* has batch_first=False: say where x"):
            noisy.mc(model, x, 3)
    for options in [{}, {"batch_dim": 0}] if first else [{"batch_dim": 1}, {"batch_dim": -2}]:
        out = noisy.mc(model, x, 3, **options)
        assert out.shape == (3, 5, 4, 3)
        for sample in out:
            torch.testing.assert_close(sample, one, rtol=0, atol=1e-4)


def test_predictions_of_shaped_outputs():
    model = noisy.to_noisy(nn.Conv2d(3, 5, 1), direction=noisy.Projected(0.3))
    x = torch.randn(2, 3, 6, 7)
    with pytest.raises(ValueError, match="say class_dim"):
        noisy.predict(model, x, 4)
    found = noisy.predict(model, x, 4, class_dim=1)
    assert found.probabilities.shape == (2, 5, 6, 7) and found.entropy.shape == (2, 6, 7)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(2, 6, 7))
    logits = torch.randn(4, 2, 5, 6)
    for a, b in zip(noisy.prediction(logits, class_dim=1), noisy.prediction(logits.movedim(2, -1), class_dim=-1)):
        torch.testing.assert_close(a.movedim(1, -1) if a.dim() == 3 and a.shape[1] == 5 else a, b)
    with pytest.raises(ValueError, match="class_dim has 1 class"):
        noisy.predict(noisy.to_noisy(nn.Linear(3, 1), **TINY), torch.randn(4, 3), 4)
    z = torch.randn(4, 6)
    binary = noisy.prediction(torch.stack([torch.zeros_like(z), z], -1))
    torch.testing.assert_close(binary.probabilities[:, 1], torch.sigmoid(z).mean(0))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda m, x: noisy.mc(m, x, 2.5), TypeError, "samples must be an int"),
        (lambda m, x: noisy.predict(m, x, "3"), TypeError, "samples must be an int"),
        (lambda m, x: noisy.predict(m, x, None), TypeError, "samples must be an int"),
        (lambda m, x: noisy.mc(m, x, 2, batch_dim=2), ValueError, "batch_dim must be a dimension"),
        (lambda m, x: noisy.mc(lambda_module(lambda y: y.sum(0)), x, 2), ValueError, "one entry an example"),
        (lambda m, x: noisy.mc(lambda_module(lambda y: (y, y)), x, 2), TypeError, "must return one tensor"),
        (lambda m, x: noisy.prediction(torch.ones(2, 3, 4), class_dim=2), ValueError, "class_dim must be"),
    ],
)
def test_bad_arguments_of_ensembles(call, error, message):
    with pytest.raises(error, match=message):
        call(noisy.to_noisy(nn.Linear(3, 2), **TINY), torch.randn(4, 3))


def lambda_module(function):
    module = nn.Module()
    module.forward = function
    return module
