"""What the tests of the Python package share."""

import numpy as np
import pytest


def close(found, wanted, bound):
    """Element-wise against the norm of a row's numbers, and by norm: NaN is never close."""
    found, wanted = np.asarray(found, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    scale = np.sqrt(np.mean(wanted**2)) if wanted.size else 0.0
    worst = np.abs(found - wanted).max() if wanted.size else 0.0
    assert worst <= bound * 10 * scale, f"off by {worst / scale:.3g} of the root mean square, allowed {10 * bound:.3g}"
    assert np.linalg.norm(found - wanted) <= bound * np.linalg.norm(wanted) or not wanted.size
    return True


def points(n, d, bits=64, seed=3):
    """Times within OU's and points of about its width."""
    random = np.random.default_rng(seed)
    return random.uniform(0.05, 3, n).astype(f"float{bits}"), random.normal(size=(n, d)).astype(f"float{bits}")


@pytest.fixture
def fokker():
    import fokker as package

    return package


@pytest.fixture
def network(fokker):
    """A potential of softplus(5) units in three dimensions, whose derivatives are about 1."""
    return fokker.initialise(dimension=3, hidden=(19, 7), beta=5, seed=4)
