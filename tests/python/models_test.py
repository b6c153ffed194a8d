"""Models and their fields with NumPy alone: against the formulas of a Gaussian, refusals, pickles, reloads, threads."""

import concurrent.futures
import importlib.util
import inspect
import pathlib
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import close, points

MEANS, VARIANCES = np.array([0.5, -1.0]), np.array([0.3, 2.0])


@pytest.fixture
def gaussian(fokker):
    return fokker.mixture([1], [MEANS], [VARIANCES])


def carried(t, x):
    """Mean and variances of x_t under dx = −x dt + dW, and x less that mean."""
    mean = np.exp(-t)[:, None] * MEANS
    variance = np.exp(-2 * t)[:, None] * VARIANCES + (1 - np.exp(-2 * t))[:, None] / 2
    return variance, x - mean


def test_fields_are_those_of_the_gaussian(gaussian):
    t, x = points(99, 2)
    variance, off = carried(t, x)
    rate = -2 * np.exp(-2 * t)[:, None] * VARIANCES + np.exp(-2 * t)[:, None]  # of the variance
    value = -0.5 * (off**2 / variance + np.log(2 * np.pi * variance)).sum(1)
    dt = (-0.5 * rate / variance + 0.5 * off**2 * rate / variance**2 - off * np.exp(-t)[:, None] * MEANS / variance).sum(1)
    hessian = -np.eye(2) / variance[:, :, None]
    bound = 1e-14  # some ten roundings of 1.1e-16 and their cancellation
    found = gaussian.fields(t, x, ["value", "dt", "score", "divergence", "hessian", "residual"])
    assert close(found["value"], value, bound) and close(gaussian.value(t, x), value, bound)
    assert close(found["dt"], dt, bound) and close(gaussian.dt(t, x), dt, bound)
    assert close(found["score"], -off / variance, bound) and close(gaussian.score(t, x), -off / variance, bound)
    assert close(found["divergence"], -(1 / variance).sum(1), bound) and close(gaussian.divergence(t, x), -(1 / variance).sum(1), bound)
    assert close(found["hessian"], hessian, bound) and close(gaussian.hessian(t, x), hessian, bound)
    # What cancels in the residual is as large as its terms.
    assert np.abs(found["residual"]).max() <= 1e-13 * np.abs(dt).max()
    direction = points(99, 2, seed=5)[1]
    assert close(gaussian.hessian_vector(t, x, direction), -direction / variance, bound)


def test_a_time_is_a_number_or_one_for_each(gaussian):
    x = points(19, 2)[1]
    each = gaussian.score(np.full(19, 0.5), x)
    for t in (0.5, np.float64(0.5), np.array(0.5), np.array(0.5, np.float32), np.array([0.5]), [0.5] * 19):
        assert np.array_equal(gaussian.score(t, x), each)
    assert np.array_equal(gaussian.score(0.5, x.tolist()), each)
    assert gaussian.score(0.5, np.empty((0, 2))).shape == (0, 2)
    assert gaussian.hessian(0.5, np.empty((0, 2), np.float32)).dtype == np.float32


def test_log_densities_are_those_of_the_flow(gaussian):
    """The flow of a Gaussian is x_T = m_T + √(v_T/v_t) (x_t − m_t), and log p_T the prior's, N(0, ½)."""
    x = points(7, 2)[1]
    variance, off = carried(np.full(7, 0.01), x)
    final, mean = carried(np.full(7, 10.0), np.zeros((7, 2)))
    end = np.sqrt(final / variance) * off - mean
    exact = (0.5 * np.log(final / variance) - end**2 - 0.5 * np.log(np.pi)).sum(1)
    assert close(gaussian.log_density(0.01, x, tolerance=1e-9), exact, 1e-7)
    # Steps of 4 % of t by a scheme of fourth order, in float32.
    assert close(gaussian.log_density(0.01, x.astype(np.float32), scheme="rk4", grid="geometric:200:0.01"), exact, 1e-5)


def test_each_refusal_is_one_sentence(fokker, gaussian):
    x = np.zeros((5, 2), np.float32)
    for call, words in [
        (lambda: gaussian.score(0.5, x.astype(np.float16)), "x is of type float16; allowed: float32, float64"),
        (lambda: gaussian.score(0.5, np.zeros((5, 2), int)), "x is of type int64"),
        (lambda: gaussian.score(np.zeros(5), x), "t is of type float64; allowed here: float32"),
        (lambda: gaussian.score(0.5, np.zeros((2, 5), np.float32).T), "strides [1, 5]; allowed: dense and row-major, [2, 1]"),
        (lambda: gaussian.score(0.5, np.zeros((10, 2), np.float32)[::2]), "strides [4, 1]"),
        (lambda: gaussian.score(0.5, np.zeros((5, 3), np.float32)), "x has shape [5, 3]; allowed here: [5, 2]"),
        (lambda: gaussian.score(0.5, np.zeros((5, 2, 1), np.float32)), "x has 3 axes"),
        (lambda: gaussian.score(np.zeros(4, np.float32), x), "t has shape [4, 1]; allowed here: [5, 1]"),
        (lambda: gaussian.score(0.5, x, condition=np.zeros((5, 1), np.float32)), "given to a model that takes none"),
        (lambda: gaussian.score(None, x), "t is None; allowed: a number, or an array of times"),
        (lambda: gaussian.score(1j, x), "t is 1j; allowed: a number"),
        (lambda: gaussian.score(0.5, 1j), "x is 1j; allowed: a number"),
        (lambda: gaussian.score(object(), x), "t is a object"),
        (lambda: gaussian.log_density(None, x), "t is None; allowed: a number"),
        (lambda: gaussian.log_density(0.1, x, tolerance="small"), "tolerance is 'small'; allowed: a number"),
        (lambda: fokker.compose([("half", gaussian)]), "a weight of terms is 'half'"),
        (lambda: gaussian.score(0.5, "circles2"), "x is a str; allowed: an array of NumPy, PyTorch, JAX or CuPy"),
        (lambda: gaussian.score(0.5, [[1, 2], [3]]), "x is [[1, 2], [3]]; allowed: an array, or lists of numbers"),
        (lambda: gaussian.fields(0.5, x, ["laplacian"]), "the field 'laplacian' is asked for; allowed: value, dt"),
        (lambda: gaussian.divergence(0.5, x, probes=4, law="uniform"), "uniform"),
        (lambda: gaussian.log_density(0.5, x, scheme="heun"), "allowed: with one whose last time is t"),
        (lambda: gaussian.log_density(0.5, x, scheme="heun", grid="geometric:9:0.1"), "the grid ends at 0.1"),
        (lambda: gaussian.log_density(0.5, x, grid="paper"), "whose steps follow the tolerance"),
        (lambda: gaussian.parameters, "parameters are asked for of a Gaussian mixture"),
        (lambda: fokker.load("nowhere.safetensors"), "nowhere.safetensors"),
        (lambda: fokker.load("nowhere.safetensors", colour="red"), "unknown model option 'colour'"),
        (lambda: fokker.initialise(colour="red"), "the option colour is not known"),
        (lambda: fokker.mixture([1, 1], [[0.0]], 1.0), "weights of shape [2] and means of [1, 1]"),
        (lambda: fokker._core.parse_model(b"{}"), "it is shorter than 8 bytes"),
    ]:
        with pytest.raises(fokker.Error) as refused:
            call()
        assert words in str(refused.value), str(refused.value)
        assert isinstance(refused.value, ValueError) and "\n" not in str(refused.value)


def test_files_and_pickles_hold_the_model(fokker, gaussian, network, tmp_path):
    t, x = points(19, 3)
    wide = network.replaced(network.parameters * (1 + 1e-12))  # which float32 does not hold
    assert not np.array_equal(wide.parameters, wide.parameters.astype(np.float32))
    for model in (network, wide):
        again = pickle.loads(pickle.dumps(model))
        assert type(again) is fokker.Model and np.array_equal(again.parameters, model.parameters)
        assert np.array_equal(again.score(t, x), model.score(t, x)) and repr(again) == repr(model)
    network.save(tmp_path / "network.safetensors", {"note": "of a test"})
    assert np.array_equal(fokker.load(tmp_path / "network.safetensors").score(t, x), network.score(t, x))

    t, x = points(19, 2)
    sum_of = fokker.compose([(0.25, gaussian), (0.75, fokker.mixture([1, 2], [[0.0, 0], [1, 1]], 0.5))])
    for model in (gaussian, sum_of):
        again = pickle.loads(pickle.dumps(model))
        assert close(again.score(t, x), model.score(t, x), 1e-14)
    gaussian.save(tmp_path / "gaussian.json")
    assert close(fokker.load(tmp_path / "gaussian.json").value(t, x), gaussian.value(t, x), 1e-14)
    with pytest.raises(fokker.Error, match="allowed: a network or a Gaussian mixture"):
        sum_of.save(tmp_path / "sum.json")
    data = pickle.loads(pickle.dumps(fokker.DataSet("blob")))
    assert np.array_equal(data.draw(5, seed=2), fokker.DataSet("blob").draw(5, seed=2))


def test_a_model_says_what_it_is(fokker, gaussian, network):
    assert repr(network) == "<fokker.Model: 4–19–7–1, softplus(5), potential, SDE ou, T 10>"
    assert repr(gaussian) == "<fokker.Model: Gaussian mixture in 2 dimensions, SDE ou, T 10>"
    assert gaussian.sde["name"] == "ou" and gaussian.sde["rate"] == 1
    assert (network.dimension, network.condition_width, network.is_potential) == (3, 0, True)
    assert "probes" in fokker.Model.divergence.__doc__
    assert fokker.__version__ == fokker._core.version and fokker.backends()["cpu"][0]
    packages = {"plot": "matplotlib", **dict.fromkeys(("autograd", "from_torch", "UnmappableModule"), "torch")}
    assert set(packages) <= set(dir(fokker))
    for name in [*fokker.__all__, *packages]:
        if name not in packages or importlib.util.find_spec(packages[name]):
            assert getattr(fokker, name).__doc__, name
    assert set(fokker.__all__) <= set(dir(fokker))
    with pytest.raises(AttributeError, match="no attribute 'pilot'"):
        fokker.pilot


def test_conditions_and_guidance(fokker):
    def mixture(mean):
        return fokker.mixture([1], [[mean, 0.0]], 1.0)

    t, x = points(19, 2)
    guided = fokker.guided(mixture(1.0), mixture(0.0), 3.0)
    wanted = mixture(0.0).score(t, x) + 3 * (mixture(1.0).score(t, x) - mixture(0.0).score(t, x))
    assert close(guided.score(t, x), wanted, 1e-14)
    assert close(fokker.compose([(1.0, mixture(1.0))]).score(t, x), mixture(1.0).score(t, x), 1e-14)


def test_threads_get_the_same_numbers(network):
    t, x = points(989, 3)
    alone = network.score(t, x)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: network.score(t, x), range(32)):
            assert np.array_equal(found, alone)


def test_the_gil_is_released(network):
    """Another thread goes on while calls run. With a switch interval of an hour it gets the GIL where a call lets go of it, and
    nowhere else."""
    x = np.zeros((999, 3), np.float32)
    gate, order, usual = threading.Event(), [], sys.getswitchinterval()
    other = threading.Thread(target=lambda: (gate.wait(), order.append("other")))
    other.start()
    sys.setswitchinterval(3600)
    try:
        gate.set()
        for _ in range(999):
            repr(network)  # which keeps the GIL
        before = list(order)
        for _ in range(99_999):
            network.hessian(0.5, x)
            if order:
                break
        after = list(order)
    finally:
        sys.setswitchinterval(usual)
        other.join()
    assert not before and after


def test_reloads_and_other_interpreters(fokker, network):
    t, x = points(5, 3)
    before, saved = network.score(t, x), pickle.dumps(network)
    importlib.reload(fokker)
    assert np.array_equal(network.score(t, x), before)
    assert np.array_equal(pickle.loads(saved).score(t, x), before)
    code = "import sys, pickle; m = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(pickle.dumps(m.score(*pickle.load(sys.stdin.buffer))))"
    for _ in range(2):
        found = subprocess.run([sys.executable, "-c", code], input=saved + pickle.dumps((t, x)), capture_output=True, check=True)
        assert np.array_equal(pickle.loads(found.stdout), before) and not found.stderr


def test_an_interpreter_may_import_it_twice():
    """The package as it comes anew beside the extension module, which is loaded once: each takes the other's models."""
    code = """
import sys, fokker, numpy as np
model, x = fokker.initialise(hidden=(7,), seed=1), np.ones((5, 2))
for name in [name for name in sys.modules if name == "fokker" or name.startswith("fokker.") and name != "fokker._core"]:
    del sys.modules[name]
import fokker as again
assert again is not fokker and again.Model is not fokker.Model and again.Error is fokker.Error
assert np.array_equal(again.sample(model, 5, grid="uniform:3"), fokker.sample(again.initialise(hidden=(7,), seed=1), 5, grid="uniform:3"))
assert np.array_equal(again.compose([(1.0, model)]).score(0.5, x), model.score(0.5, x))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_everything_has_hints(fokker):
    """Of each argument and of what is returned, of all that a user calls."""
    for name in fokker.__all__:
        found = getattr(fokker, name)
        calls = [found] if inspect.isfunction(found) else []
        if inspect.isclass(found):
            calls = [part for key, part in vars(found).items() if inspect.isfunction(part) and (key == "__init__" or key[0] != "_")]
        for call in calls:
            signature = inspect.signature(call)
            bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
            assert not bare and signature.return_annotation is not signature.empty, (name, call, bare)
            assert call.__doc__ or call.__name__ == "__init__", (name, call)
    assert (pathlib.Path(fokker.__file__).parent / "py.typed").exists()
