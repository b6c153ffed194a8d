"""PyTorch's autograd through values, scores and losses: gradcheck in double, and autograd of the same network in PyTorch."""

import numpy as np
import pytest
from conftest import close, points

torch = pytest.importorskip("torch")


def tensors(n=5, d=2, seed=3):
    t, x = points(n, d, seed=seed)
    return torch.from_numpy(0.3 + t / 4).requires_grad_(), torch.from_numpy(x).requires_grad_()


def network(fokker, **options):
    """Whose last layer is not the zero that forms begin with."""
    model = fokker.initialise(**{"hidden": (7, 9), "beta": 5, "seed": 2, **options})
    random = np.random.default_rng(6)
    return model.replaced(model.parameters + 0.3 * random.normal(size=model.parameters.shape))


VECTORS = {"noise": dict(output="noise", sde="vp-linear"), "flow": dict(output="velocity", sde="flow", inputs="999*t,x"),
           "score": dict(output="score")}
POTENTIALS = {"plain": {}, "three": dict(dimension=3), "edm": dict(output="potential:edm", sde="edm", inputs="0.25*log-sigma,x"),
              "vp": dict(output="potential:noise", sde="vp-linear", inputs="-0.125*log-snr,x"),
              "subvp": dict(output="potential:edm", sde="subvp", inputs="2*sigma,x", data_deviation=0.7)}


@pytest.mark.parametrize("name", [*POTENTIALS, *VECTORS])
def test_scores_pass_gradcheck(fokker, name):
    model = network(fokker, **{**POTENTIALS, **VECTORS}[name])
    t, x = tensors(d=model.dimension)
    assert torch.autograd.gradcheck(model.score, (t, x))
    assert torch.autograd.gradcheck(lambda one: model.score(one, x.detach()), (torch.tensor(0.4, dtype=torch.float64, requires_grad=True),))
    assert torch.autograd.gradcheck(lambda at: model.score(0.4, at), (x,))


@pytest.mark.parametrize("name", POTENTIALS)
def test_values_pass_gradcheck_and_are_differentiable_twice(fokker, name):
    model = network(fokker, **POTENTIALS[name])
    t, x = tensors(d=model.dimension)
    assert torch.autograd.gradcheck(model.value, (t, x))
    assert torch.autograd.gradgradcheck(lambda at: model.value(t.detach(), at), (x,))


def test_sums_and_standardised_models(fokker):
    terms = [(0.3, network(fokker)), (0.7, network(fokker, seed=9))]
    t, x = tensors()
    assert torch.autograd.gradcheck(fokker.compose(terms).score, (t, x))
    scaled = standardised(fokker, network(fokker))
    assert torch.autograd.gradcheck(scaled.score, (t, x)) and torch.autograd.gradcheck(scaled.value, (t, x))


def standardised(fokker, model, means="[0.5, -1]", deviations="[2, 0.25]"):
    return fokker._core.parse_model(model.contents(), {"column_means": means, "column_deviations": deviations})


def test_in_float32_gradients_are_those_of_double(fokker):
    model = network(fokker)
    t, x = tensors(99)
    model.score(t, x).square().sum().backward()
    small_t, small_x = (v.detach().float().requires_grad_() for v in (t, x))
    model.score(small_t, small_x).square().sum().backward()
    # Each of some hundred roundings, of numbers with factors of 25 by the second derivatives.
    assert small_x.grad.dtype == torch.float32
    assert close(small_x.grad.numpy(), x.grad.numpy(), 100 * 25 * 2**-24) and close(small_t.grad.numpy(), t.grad.numpy(), 100 * 25 * 2**-24)


def in_torch(model):
    layers = []
    for _, outputs, inputs in model.layers:
        layers += [torch.nn.Linear(inputs, outputs, dtype=torch.float64), torch.nn.Softplus(beta=5)]
    net = torch.nn.Sequential(*layers[:-1])
    torch.nn.utils.vector_to_parameters(torch.from_numpy(model.parameters), net.parameters())
    return net


class Net(torch.nn.Module):
    """The network of a model, with the time before or after x, by the names of its layers."""

    def __init__(self, model, last):
        super().__init__()
        self.last, self.order = last, []
        for (name, outputs, inputs), own in zip(model.layers, in_torch(model)[::2]):
            if last and not self.order:
                own.weight = torch.nn.Parameter(own.weight.roll(-1, dims=1).contiguous())
            self.add_module(name, own)
            self.order.append(name)

    def forward(self, t, x):
        h = torch.cat([x, t[:, None]] if self.last else [t[:, None], x], dim=1)
        for name in self.order:
            h = getattr(self, name)(h)
            h = h if name == self.order[-1] else torch.nn.functional.softplus(h, beta=5, threshold=40)
        return h.squeeze(1)


def fields_of(net, t, x):
    """φ, its derivatives and R of ou by PyTorch, differentiable in the parameters."""
    t, x = t.detach().requires_grad_(), x.detach().requires_grad_()
    value = net(t, x)
    dt, score = torch.autograd.grad(value.sum(), (t, x), create_graph=True)
    laplacian = sum(torch.autograd.grad(score[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1]))
    residual = dt - x.shape[1] - (x * score).sum(1) - 0.5 * (laplacian + (score**2).sum(1))
    return score, residual


@pytest.mark.parametrize("last", [False, True])
def test_losses_reach_the_modules_parameters(fokker, last):
    model = network(fokker)
    net = Net(model, last)
    t, x = (v.detach() for v in tensors(19))
    target = torch.from_numpy(points(19, 2, seed=8)[1])
    weight = torch.linspace(0.5, 2, 19, dtype=torch.float64)
    score, residual = fields_of(net, t, x)
    wanted = [(residual**2).mean(), (weight[:, None] * (score - target) ** 2).mean()]
    losses = [fokker.autograd.ResidualLoss(model, net)(t, x), fokker.autograd.DenoisingLoss(model, net)(t, x, target, weight=weight)]
    for loss, own in zip(losses, wanted):
        assert close(loss.item(), own.item(), 1e-12)
        found = torch.autograd.grad(3 * loss, list(net.parameters()))
        expected = torch.autograd.grad(3 * own, list(net.parameters()), retain_graph=True, allow_unused=True)
        for a, b in zip(found, expected):
            assert close(a.numpy(), np.zeros(a.shape) if b is None else b.numpy(), 1e-11) or not b.any()
    assert np.allclose(fokker.autograd.ResidualLoss(model, net).current_model().parameters, model.parameters, rtol=0, atol=0)


def test_losses_of_parameters_pass_gradcheck(fokker):
    model = network(fokker, hidden=(4, 3))
    t, x = (v.detach() for v in tensors(4))
    theta = torch.from_numpy(model.parameters).requires_grad_()
    residual, denoising = fokker.autograd.ResidualLoss(model), fokker.autograd.DenoisingLoss(model)
    assert torch.autograd.gradcheck(lambda p: residual(t, x, parameters=p), (theta,))
    assert torch.autograd.gradcheck(lambda p: denoising(t, x, torch.ones_like(x), parameters=p), (theta,))


def test_losses_of_standardised_models_are_of_z(fokker):
    model = network(fokker)
    scaled = standardised(fokker, model)
    t, z = (v.detach() for v in tensors(7))
    mean, deviation = torch.tensor([0.5, -1.0]).double(), torch.tensor([2, 0.25]).double()
    theta = torch.from_numpy(model.parameters)
    own = fokker.autograd.ResidualLoss(model)(t, z, parameters=theta)
    assert close(fokker.autograd.ResidualLoss(scaled)(t, mean + deviation * z, parameters=theta).item(), own.item(), 1e-12)
    target = torch.ones_like(z)
    own = fokker.autograd.DenoisingLoss(model)(t, z, target, parameters=theta)
    found = fokker.autograd.DenoisingLoss(scaled)(t, mean + deviation * z, target / deviation, parameters=theta)
    assert close(found.item(), own.item(), 1e-12)


def test_a_step_of_an_optimiser_lowers_the_residual(fokker):
    model = network(fokker)
    net = Net(model, False)
    t, x = (v.detach() for v in tensors(99))
    residual = fokker.autograd.ResidualLoss(model, net)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    before = residual(t, x).item()
    for _ in range(30):
        optimiser.zero_grad()
        residual(t, x).backward()
        optimiser.step()
    after = residual.current_model().residual(t, x).square().mean().item()
    assert after < 0.5 * before and close(residual(t, x).item(), after, 1e-12)


def test_losses_follow_tensors_that_the_module_gets_later(fokker):
    model = network(fokker)
    net = Net(model, True)
    residual = fokker.autograd.ResidualLoss(model, net)
    net.load_state_dict({name: 2 * tensor.detach() for name, tensor in net.state_dict().items()}, assign=True)
    assert np.array_equal(residual.current_model().parameters, 2 * model.parameters)
    t, x = (v.detach() for v in tensors(7))
    residual(t, x).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    name = model.layers[0][0]
    setattr(net, name, torch.nn.Linear(5, 7))
    with pytest.raises(fokker.Error, match=r"has one of shape \[7, 5\] for .*, of \[7, 3\] when the loss was made"):
        residual(t, x)


class Block(torch.nn.Module):
    """A residual block of two layers, whose sum from_torch carries past the first by pairs of units."""

    def __init__(self, begins):
        super().__init__()
        self.i, self.o = torch.nn.Linear(3, 8), torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU(), torch.nn.Linear(8, 8))
        self.e, self.begins = torch.nn.Linear(8, 1), begins

    def forward(self, t, x):
        h = self.begins(self.i(torch.cat([t[:, None], x], dim=1)))
        return self.e(torch.nn.functional.silu(h + self.o(h))).squeeze(1)


@pytest.mark.parametrize("begins", [torch.nn.SiLU(), torch.nn.Identity()], ids=str)
def test_units_that_carry_connections_are_named(fokker, begins):
    net = Block(begins)
    t, x = (v.detach().float() for v in tensors())
    model = fokker.from_torch(net, dict(t=t, x=x), sde="ou", output="potential")
    said = r"has \d+ units in its layer 'o\.0' that carry connections past it, .*; allowed: modules whose layers are the model's"
    for call in (fokker.autograd.ResidualLoss, fokker.autograd.DenoisingLoss, lambda a, b: fokker.autograd.parameters_of(b, a)):
        with pytest.raises(fokker.Error, match=said):
            call(model, net)


def test_refusals(fokker):
    model, vector = network(fokker), network(fokker, output="score")
    mixture = fokker.mixture([1], [[0.0, 0.0]], 1.0)
    t, x = tensors()
    net = Net(model, False)
    alike = model.replaced(np.ones_like(model.parameters))
    for call, words in [
        (lambda: model.residual(t, x), "autograd goes through value and score"),
        (lambda: model.fields(t, x, ["score", "value"]), "one at a time"),
        (lambda: model.hessian_vector(t, x, x.detach()), "hessian_vector of tensors that require gradients"),
        (lambda: mixture.score(t, x).sum().backward(), "the derivative of the score in t is asked for of a Gaussian mixture"),
        (lambda: vector.value(t, x), "the value is there for potentials"),
        (lambda: fokker.autograd.ResidualLoss(vector, Net(vector, False))(0.5, x.detach()), "potentials"),
        (lambda: fokker.autograd.ResidualLoss(mixture), "that is no network"),
        (lambda: fokker.autograd.ResidualLoss(model, torch.nn.Linear(2, 2)), "the module has none of its name"),
        (lambda: fokker.autograd.ResidualLoss(network(fokker, seed=5), net), "is not that of the module"),
        (lambda: fokker.autograd.ResidualLoss(model, net)(0.5, x), "points that require gradients is asked for, in x"),
        (lambda: fokker.autograd.DenoisingLoss(model, net)(0.5, x.detach(), x), "is asked for, in target"),
        (lambda: fokker.autograd.DenoisingLoss(model, net)(0.5, x.detach(), x.detach(), weight=t), "is asked for, in weight"),
        (lambda: fokker.autograd.DenoisingLoss(model, net)(0.5, x.detach(), x.detach(), condition=x), "is asked for, in condition"),
        (lambda: fokker.autograd.ResidualLoss(model, net)(0.5, x.detach(), condition=x), "is asked for, in condition"),
        (lambda: model.score(0.5, x, condition=x), "score of tensors that require gradients"),
        (lambda: model.value(t, x.detach(), condition=x), "value of tensors that require gradients"),
        (lambda: model.score(0.5, x.detach(), condition=x), "score of tensors that require gradients"),
        (lambda: model.hessian_vector(0.5, x.detach(), x), "hessian_vector of tensors that require gradients"),
        (lambda: model.log_density(t[0], x.detach()), "log_density of tensors that require gradients"),
        (lambda: fokker.autograd.ResidualLoss(alike, Net(alike, True)), "with 0, 1 of its last columns moved to the front"),
        (lambda: fokker.autograd.ResidualLoss(model, net)(0.5, x.detach().float()), "allowed: the same type on one device"),
        (lambda: fokker.autograd.ResidualLoss(model)(0.5, x.detach()), "a loss without a module"),
    ]:
        with pytest.raises(fokker.Error) as refused:
            call()
        assert words in str(refused.value), str(refused.value)
    with torch.no_grad():
        assert model.residual(t, x).shape == (5,)
    assert not model.score(t.detach(), x.detach()).requires_grad
    # In x the score of any model is differentiable; only once.
    assert torch.autograd.gradcheck(lambda at: mixture.score(0.5, at), (x,))
    (slope,) = torch.autograd.grad(model.score(0.5, x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(slope.sum(), x)
