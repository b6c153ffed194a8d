"""PyTorch on GPUs: on a stream of the caller's, where out= lies, and arrays of another GPU. Skipped where there is none."""

import numpy as np
import pytest
from conftest import close, points

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def gpu(fokker):
    if not (torch.cuda.is_available() and fokker.backends()["cuda"][0]):
        pytest.skip("no GPU that PyTorch and fokker have")


# Of float32: 60 roundings, and derivatives of softplus(5) have factors of up to 5 a layer, as in frameworks_test.py.
BOUND = 60 * 5 * 2**-24


def test_work_is_in_the_order_of_the_callers_stream(network):
    """What the side stream writes just before a call is what the call reads, and what it reads after is what the call wrote."""
    t, x = points(20_011, 3, 32)
    wanted = {name: getattr(network, name)(t.astype(float), x.astype(float)) for name in ("value", "score", "divergence")}
    stream = torch.cuda.Stream()
    busy, given = torch.ones(4096, 4096, device="cuda"), torch.from_numpy(x).cuda()
    times = torch.from_numpy(t).cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        at = torch.zeros_like(given)
        for _ in range(8):
            busy = busy @ busy / 4096
        at += given  # after all that, on this stream
        found = network.fields(times, at, list(wanted))
        at.zero_()
        sums = {name: numbers.clone() for name, numbers in found.items()}
    stream.synchronize()
    for name, numbers in sums.items():
        assert numbers.is_cuda and close(numbers.cpu().numpy(), wanted[name], BOUND), name


def test_gradients_are_those_of_the_cpu(network):
    t, x = points(999, 3, 64)
    wanted, at = (torch.from_numpy(x).to(device).requires_grad_() for device in ("cpu", "cuda"))
    network.score(0.5, wanted).square().sum().backward()
    network.score(0.5, at).square().sum().backward()
    assert at.grad.is_cuda and close(at.grad.cpu().numpy(), wanted.grad.numpy(), 60 * 25 * 2**-53)
    with pytest.raises(ValueError, match="asked for on cuda; allowed: on the CPU"):
        network.score(torch.from_numpy(t).cuda().requires_grad_(), at).sum().backward()


def test_out_is_written_where_it_lies(fokker):
    model = fokker.mixture([1], [[1.0, 0.0]], 0.1)
    out = torch.full((999, 2), float("nan"), device="cuda")
    address = out.data_ptr()
    samples = fokker.sample(model, scheme="heun", grid="geometric:20:0.01", seed=5, out=out)
    assert samples is out and out.data_ptr() == address
    assert close(out.cpu().numpy(), fokker.sample(model, 999, scheme="heun", grid="geometric:20:0.01", seed=5), 1e-5)
    like = fokker.sample(model, 999, scheme="heun", grid="geometric:20:0.01", seed=5, like=out)
    assert like.device == out.device and torch.equal(like, out)


def test_hosts_and_gpus_do_not_mix(fokker, network):
    t, x = (torch.from_numpy(array) for array in points(5, 3, 32))
    for call in (lambda: network.score(t, x.cuda()), lambda: network.score(t.cuda(), x)):
        with pytest.raises(fokker.Error):
            call()
    assert np.array_equal(network.score(0.5, x.cuda()).cpu().numpy(), network.score(torch.tensor(0.5), x.cuda()).cpu().numpy())


def test_arrays_of_another_gpu(fokker, network):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU alone")
    t, x = (torch.from_numpy(array) for array in points(99, 3, 32))
    first, second = network.score(t.to("cuda:0"), x.to("cuda:0")), network.score(t.to("cuda:1"), x.to("cuda:1"))
    assert second.device.index == 1 and torch.equal(first.cpu(), second.cpu())
    model = fokker.mixture([1], [[0.0, 0.0]], 1.0)
    for call in (lambda: network.score(t.to("cuda:0"), x.to("cuda:1")), lambda: network.hessian_vector(0.5, x.to("cuda:0"), x.to("cuda:1")),
                 lambda: fokker.w2_squared(torch.zeros(5, 2, device="cuda:0"), torch.zeros(5, 2, device="cuda:1")),
                 lambda: model.log_density(0.5, torch.zeros(5, 2, device="cuda:1"), condition=torch.zeros(5, 1, device="cuda:0"))):
        with pytest.raises(fokker.Error, match="is on GPU"):
            call()
