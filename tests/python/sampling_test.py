"""Samples, the gap, distances and data with NumPy."""

import math

import numpy as np
import pytest
from conftest import close


@pytest.fixture
def gaussian(fokker):
    return fokker.mixture([1], [[1.0, -0.5]], 0.25)


@pytest.mark.parametrize("options", [{"scheme": "heun"}, {"scheme": "euler-maruyama"}, {"scheme": "ddim", "eta": 0.5},
                                     {"scheme": "dpm++2m", "grid": "log-snr:30:0.01"}, {"scheme": "tsit5", "end": 0.01}])
def test_samples_are_of_the_law(fokker, gaussian, options):
    """Mean and variance of 20 000 samples: five standard errors, and the steps' bias of 1 % in the standard deviation."""
    n = 20_000
    samples = fokker.sample(gaussian, n, seed=3, **{"grid": "geometric:200:0.01", **options} if options["scheme"] != "tsit5" else options)
    assert samples.shape == (n, 2) and samples.dtype == np.float32
    mean, variance = math.exp(-0.01) * np.array([1.0, -0.5]), math.exp(-0.02) * 0.25 + (1 - math.exp(-0.02)) / 2
    assert np.all(np.abs(samples.mean(0) - mean) <= 5 * math.sqrt(variance / n) + 0.01)
    assert np.all(np.abs(samples.std(0) / math.sqrt(variance) - 1) <= 5 / math.sqrt(2 * n) + 0.01)


def test_a_sample_depends_on_seed_and_index_alone(fokker, gaussian):
    whole = fokker.sample(gaussian, 99, grid="uniform:9", seed=7)
    assert np.array_equal(fokker.sample(gaussian, 19, grid="uniform:9", seed=7, first_index=80), whole[80:])
    assert not np.array_equal(fokker.sample(gaussian, 99, grid="uniform:9", seed=8), whole)
    times = 10 * (1 - np.arange(10) / 9)
    assert np.array_equal(fokker.sample(gaussian, 99, grid=times, seed=7), whole)
    out = np.empty((99, 2), np.float32)
    assert fokker.sample(gaussian, grid="uniform:9", seed=7, out=out) is out and np.array_equal(out, whole)
    assert fokker.sample(gaussian, 0).shape == (0, 2)


def test_log_densities_beside_samples(fokker, gaussian):
    samples, density = fokker.sample(gaussian, 99, scheme="rk4", grid="geometric:200:0.01", log_density=True)
    variance = math.exp(-0.02) * 0.25 + (1 - math.exp(-0.02)) / 2
    off = samples - math.exp(-0.01) * np.array([1.0, -0.5])
    assert close(density, -0.5 * (off**2).sum(1) / variance - math.log(2 * math.pi * variance), 1e-4)


def test_conditions(fokker):
    """A network that ignores nothing: samples given a condition are those of the model given it."""
    data = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    data[:, 1] += data[:, 2]
    network = fokker.load(trained_given(fokker, data))
    assert network.condition_width == 1
    each = fokker.sample(network, 5, grid="geometric:9:0.1", condition=np.full((5, 1), 0.7, np.float32))
    assert close(fokker.sample(network, 5, grid="geometric:9:0.1", condition=[0.7]), each, 1e-5)
    with pytest.raises(fokker.Error, match="no condition is given"):
        fokker.sample(network, 5, grid="geometric:9:0.1")


def trained_given(fokker, data):
    """A network of (y, t, x) with weights of its own, as a file."""
    import json
    import struct
    import tempfile

    random = np.random.default_rng(1)
    tensors = {"a.weight": random.normal(size=(7, 4)) / 2, "a.bias": random.normal(size=7), "b.weight": random.normal(size=(1, 7)),
               "b.bias": random.normal(size=1)}
    header, body = {"__metadata__": {"activation": "tanh", "output": "potential", "inputs": "y,t,x", "layers": "a,b", "condition": "1",
                                     "sde": "ou"}}, b""
    for name, numbers in tensors.items():
        header[name] = {"dtype": "F64", "shape": list(numbers.shape), "data_offsets": [len(body), len(body) + numbers.nbytes]}
        body += numbers.tobytes()
    text = json.dumps(header).encode()
    with tempfile.NamedTemporaryFile(suffix=".safetensors", delete=False) as file:
        file.write(struct.pack("<Q", len(text)) + text + body)
    return file.name


def test_the_gap_of_an_exact_model_is_noise(fokker, tmp_path):
    model = fokker.mixture([1], [[0.5, 0.0]], 0.3)
    model.save(tmp_path / "law.json")
    gap = fokker.gap(model, tmp_path / "law.json", samples=20_000, grid="geometric:100:1e-3", sliced=True)
    # Both start from one draw of the prior; the truth is another draw, as those of the floor are: a factor of two and the steps.
    assert gap.ode_sde <= 3 * gap.noise_floor and gap.ode_truth <= 3 * gap.noise_floor and gap.sde_truth <= 3 * gap.noise_floor
    assert gap.samples == 20_000 and gap.escaped_ode == 0 and gap.certificate_gap <= 1e-9
    assert set(gap.histograms) == {"truth", "sde", "ode"} and abs(gap.histograms["sde"].sum() - 1) <= 1e-12
    assert gap.sliced["ode_sde"] <= gap.ode_sde and "noise floor" in str(gap) and "histograms" not in repr(gap)
    off = fokker.gap(fokker.mixture([1], [[1.5, 0.0]], 0.3), tmp_path / "law.json", samples=2000, grid="geometric:50:1e-3")
    assert abs(off.ode_truth - 1) <= 0.1 and abs(off.sde_truth - 1) <= 0.1


def test_distances(fokker):
    random = np.random.default_rng(2)
    a = random.normal(size=(300, 2)).astype(np.float32)
    shifted = a + np.array([0.5, 0.0], np.float32)
    assert abs(fokker.w2_squared(a, shifted, method="points") - 0.25) <= 1e-6
    assert fokker.w2(a, shifted, method="points") == math.sqrt(fokker.w2_squared(a, shifted, method="points"))
    # A shift by c is c·u on a line along u, so that its mean square over directions of the plane is ½|c|².
    assert abs(fokker.w2_squared(a, shifted, method="sliced", projections=4096) - 0.125) <= 0.01
    assert abs(fokker.w2_squared(a, shifted, box=5, nodes=128) - 0.25) <= 0.06
    assert fokker.w2_squared(a, a) == 0
    many = random.normal(size=(50, 5)).astype(np.float32)
    assert fokker.w2_squared(many, many) == 0
    for call, words in [(lambda: fokker.w2_squared(a, many), "has shape [50, 5]; allowed here: [50, 2]"),
                        (lambda: fokker.w2_squared(a, a, method="exact"), "'exact'"),
                        (lambda: fokker.w2_squared(a, a, box=[1, 2, 3]), "a box of shape [3]"),
                        (lambda: fokker.w2_squared(a, "b"), "b is a str")]:
        with pytest.raises(fokker.Error) as refused:
            call()
        assert words in str(refused.value), str(refused.value)


def test_data(fokker):
    numbers = np.arange(6.0).reshape(3, 2)
    data = fokker.DataSet(numbers)
    drawn = data.draw(50, seed=1)
    assert {tuple(row) for row in drawn.tolist()} == {(0, 1), (2, 3), (4, 5)} and data.dimension == 2
    assert np.array_equal(data.draw(20, seed=1, first_index=30), drawn[30:])
    assert repr(fokker.DataSet("circles2")) == "<fokker.DataSet: circles2, 2 columns>"
    for law, words in [("nothing", "nothing"), (np.empty((0, 2)), "no samples given"), (np.full((2, 2), np.nan), "finite")]:
        with pytest.raises(fokker.Error) as refused:
            fokker.DataSet(law)
        assert words in str(refused.value), str(refused.value)


def test_refusals(fokker, gaussian):
    for call, words in [
        (lambda: fokker.sample(gaussian), "neither n nor out is given"),
        (lambda: fokker.sample(gaussian, -1), "n is -1; allowed: a whole number from 0 to"),
        (lambda: fokker.sample(gaussian, 5, seed=1.5), "seed is 1.5; allowed: a whole number"),
        (lambda: fokker.gap(gaussian, "blob", nodes="64"), "nodes is '64'"),
        (lambda: fokker.sample(gaussian, out=np.broadcast_to(np.float32(0), (5, 2))), "read-only"),
        (lambda: fokker.sample(gaussian, 5, scheme="leapfrog"), "leapfrog"),
        (lambda: fokker.sample(gaussian, 5, seed=np.zeros(2)), "seed is array"),
        (lambda: fokker.sample(gaussian, 5, eta="some"), "eta is 'some'; allowed: a number"),
        (lambda: fokker.sample(gaussian, 5, temperature=None), "temperature is None; allowed: a number"),
        (lambda: fokker.sample(gaussian, 5, churn=3), "churn is 3; allowed: numbers in a list"),
        (lambda: fokker.sample(gaussian, 5, grid=[1.0, "0"]), "a number of grid is '0'; allowed: a number"),
        (lambda: fokker.gap(gaussian, "blob", box="wide"), "box is 'wide'; allowed: a half width"),
        (lambda: fokker.sample(gaussian, 5, tolerance=1e-3), "tolerance is given to euler-maruyama, which does not read it"),
        (lambda: fokker.sample(gaussian, 5, scheme="bs32", log_density=True), "log_density is given to bs32, which does not read it"),
        *[(lambda option=option: fokker.sample(gaussian, 5, scheme="dopri5", **option), f"{next(iter(option))} is given to dopri5")
          for option in ({"temperature": 0.5}, {"eta": 0.0}, {"churn": (1, 0, 1, 1)}, {"langevin": 0.1},
                         {"noise_in_last_step": True}, {"probes": 4})],
        (lambda: fokker.sample(gaussian, 5, grid="every:2"), "every:2"),
        (lambda: fokker.sample(gaussian, 5, grid=[1.0, 2.0]), "must strictly decrease"),
        (lambda: fokker.sample(gaussian, 5, scheme="tsit5", grid="paper"), "grid is given to tsit5, which does not read it"),
        (lambda: fokker.sample(gaussian, 5, end=0.1), "end is given to euler-maruyama"),
        (lambda: fokker.sample(gaussian, 5, eta=101), "101"),
        (lambda: fokker.sample(gaussian, 4, out=np.empty((5, 2), np.float32)), "n is 4 and out has 5 rows"),
        (lambda: fokker.sample(gaussian, out=np.empty((5, 2))), "samples is of type float64; allowed here: float32"),
        (lambda: fokker.sample(gaussian, out=np.empty((5, 3), np.float32)), "[5, 3]"),
        (lambda: fokker.gap(gaussian, "blob", samples=0), "0"),
        (lambda: fokker.gap(gaussian, "blob", device="tpu"), "the device 'tpu' is given; allowed: cpu, cuda"),
        (lambda: fokker.sample(gaussian, 5, scheme="tsit5", end=0.0, tolerance=1e-9), "tolerance"),
    ]:
        with pytest.raises(fokker.Error) as refused:
            call()
        assert words in str(refused.value), str(refused.value)
