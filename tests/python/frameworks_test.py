"""NumPy, PyTorch and JAX in and out: numbers against each framework's own differentiation in double, no copies."""

import importlib.util

import numpy as np
import pytest
from conftest import close, points

HAVE = {name: importlib.util.find_spec(name) is not None for name in ("torch", "jax")}


def in_torch(model, t, x):
    """φ and its derivatives at each point, by torch.func in double."""
    import torch

    layers = split(model)

    def potential(time, point):
        h = torch.cat([time.reshape(1), point])
        for k, (w, b) in enumerate(layers):
            h = torch.from_numpy(w) @ h + torch.from_numpy(b)
            if k + 1 < len(layers):
                h = torch.logaddexp(torch.zeros_like(h), 5 * h) / 5
        return h[0]

    def of(make):
        return torch.stack([make(a, b) for a, b in zip(torch.from_numpy(t).double(), torch.from_numpy(x).double())]).numpy()

    return [of(f) for f in (potential, torch.func.grad(potential, 0), torch.func.grad(potential, 1), torch.func.hessian(potential, 1))]


def in_jax(model, t, x):
    import jax
    import jax.numpy as jnp

    layers = split(model)

    def potential(time, point):
        h = jnp.concatenate([time[None], point])
        for k, (w, b) in enumerate(layers):
            h = w @ h + b
            if k + 1 < len(layers):
                h = jnp.logaddexp(0, 5 * h) / 5
        return h[0]

    with jax.enable_x64(True):
        t, x = jnp.asarray(t, jnp.float64), jnp.asarray(x, jnp.float64)
        return [np.asarray(jax.vmap(f)(t, x)) for f in (potential, jax.grad(potential, 0), jax.grad(potential, 1), jax.hessian(potential, 1))]


def split(model):
    layers, at, parameters = [], 0, model.parameters
    for _, outputs, inputs in model.layers:
        layers.append((parameters[at:at + outputs * inputs].reshape(outputs, inputs), parameters[at + outputs * inputs:at + outputs * (inputs + 1)]))
        at += outputs * (inputs + 1)
    return layers


def residual(t, x, dt, score, hessian):
    """Of dx = −x dt + dW: R = ∂_t φ − d − x·∇φ − ½ (Δφ + |∇φ|²)."""
    return dt - x.shape[1] - (x * score).sum(1) - 0.5 * (np.trace(hessian, axis1=1, axis2=2) + (score**2).sum(1))


def array_of(name, array):
    if name == "numpy":
        return array
    if name == "torch":
        import torch

        return torch.from_numpy(array.copy())
    import jax

    with jax.enable_x64(array.dtype == np.float64):
        return jax.numpy.asarray(array)


def pointer(array):
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    return array.data_ptr() if hasattr(array, "data_ptr") else array.unsafe_buffer_pointer()


# In float32 each of three layers rounds sums of up to 20 terms, in double likewise: 60 roundings, and derivatives of softplus(5)
# have factors of up to 5 a layer.
BOUNDS = {32: 60 * 5 * 2**-24, 64: 60 * 5 * 2**-53}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_fields_are_those_of_the_framework(fokker, network, name, bits):
    reference = name if name != "numpy" else "torch" if HAVE["torch"] else "jax"
    if not HAVE.get(reference, False):
        pytest.skip(f"{reference} is not installed here")
    t, x = points(19, 3, bits)
    value, dt, score, hessian = {"torch": in_torch, "jax": in_jax}[reference](network, t, x)
    times, at = array_of(name, t), array_of(name, x)
    wanted = {"value": value, "dt": dt, "score": score, "hessian": hessian, "divergence": np.trace(hessian, axis1=1, axis2=2),
              "residual": residual(t.astype(float), x.astype(float), dt, score, hessian)}
    found = call(bits, name, lambda: network.fields(times, at, list(wanted)))
    for field, numbers in found.items():
        assert type(numbers) is type(at) and f"float{bits}" in str(numbers.dtype)
        assert close(np.asarray(numbers), wanted[field], BOUNDS[bits]), field
    product = call(bits, name, lambda: network.hessian_vector(times, at, at))
    assert type(product) is type(at)
    assert close(np.asarray(product), np.einsum("nij,nj->ni", hessian, x.astype(float)), BOUNDS[bits])


def call(bits, name, work):
    """JAX takes and makes float64 where it is told to."""
    if name != "jax":
        return work()
    import jax

    with jax.enable_x64(bits == 64):
        return work()


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_nothing_is_copied(fokker, network, name):
    if not HAVE.get(name, True):
        pytest.skip(f"{name} is not installed here")
    from fokker import _arrays, _core

    x = array_of(name, points(99, 3, 32)[1])
    framework = _arrays.framework_of(x)
    assert framework.name == name and _core.address(framework.given(x)) == pointer(x)
    output = framework.output((99, 3), 32, x)
    written = _core.address(output.memory)
    assert pointer(output.result()) == written
    if name == "jax":
        with pytest.raises(fokker.Error, match="JAX is given to be written"):
            fokker.sample(network, out=x)
        return
    samples = fokker.sample(network, out=x, grid="uniform:3")
    assert samples is x and np.array_equal(np.asarray(samples), fokker.sample(network, 99, grid="uniform:3"))


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_samples_draws_and_distances_of_the_framework(fokker, name):
    if not HAVE[name]:
        pytest.skip(f"{name} is not installed here")
    model, like = fokker.mixture([1], [[1.0, 0.0]], 0.1), array_of(name, np.zeros((1, 2), np.float32))
    plain = fokker.sample(model, 99, scheme="heun", grid="geometric:20:0.01", seed=5)
    own = fokker.sample(model, 99, scheme="heun", grid="geometric:20:0.01", seed=5, like=like)
    assert type(own) is type(like) and np.array_equal(np.asarray(own), plain)
    data = fokker.DataSet(plain)
    drawn = data.draw(19, seed=2, like=like)
    assert type(drawn) is type(like) and np.array_equal(np.asarray(drawn), data.draw(19, seed=2))
    assert np.array_equal(fokker.DataSet(own).draw(19, seed=2), data.draw(19, seed=2))
    for method in ("grid", "points", "sliced"):
        assert fokker.w2_squared(own, drawn, method=method) == fokker.w2_squared(plain, np.asarray(drawn), method=method)
    density = model.log_density(0.1, own)
    assert type(density) is type(like) and np.array_equal(np.asarray(density), model.log_density(0.1, plain))


def test_refusals_of_torch(fokker, network):
    torch = pytest.importorskip("torch")
    t, x = torch.tensor(0.5), torch.zeros(5, 3)
    for array, words in [(x.half(), "x is of type float16"), (x.bfloat16(), "x is of type bfloat16"), (x.int(), "x is of type int32"),
                         (torch.zeros(3, 5).T, "strides [1, 5]"), (torch.zeros(5, 4), "x has shape [5, 4]"),
                         (torch.zeros(5, 3, 1), "x has 3 axes")]:
        with pytest.raises(fokker.Error) as refused:
            network.score(t, array)
        assert words in str(refused.value)
    assert network.score(t, torch.zeros(0, 3)).shape == (0, 3)
    for one in (t.double(), torch.tensor(0.5).half(), 0.5, np.float64(0.5)):  # one time for all, whatever its type
        assert torch.equal(network.score(one, x), network.score(t, x))
    slope = torch.autograd.grad(network.score(t.double(), x.requires_grad_()).sum(), x)
    assert slope[0].shape == (5, 3)


def test_traced_arrays_of_jax_are_refused(fokker, network):
    jax = pytest.importorskip("jax")
    with pytest.raises(fokker.Error, match="x is a traced array of jax.jit"):
        jax.jit(lambda x: network.score(0.5, x))(jax.numpy.zeros((5, 3)))
