"""Training: the same bits, states, callbacks, interruption, the bar."""

import signal
import subprocess
import sys

import numpy as np
import pytest

SMALL = dict(iterations=12, denoising_points=64, collocation_points=16, residual_weight=0.5, seed=3)


@pytest.fixture
def start(fokker):
    return fokker.initialise(hidden=(16, 16), beta=20, seed=3)


def test_training_lowers_the_loss_and_tells_its_records(fokker, start):
    trainer = fokker.Trainer(start, "blob", **{**SMALL, "iterations": 200})
    assert repr(trainer) == "<fokker.Trainer: 0 of 200 iterations>"
    seen = []
    records = trainer.run(progress=False, callback=seen.append)
    assert records == seen == trainer.history and [r.iteration for r in records] == list(range(200))
    assert all(abs(r.total - r.denoising - 0.5 * r.residual) <= 1e-6 * abs(r.total) for r in records)
    first, last = ([r.denoising for r in of] for of in (records[:40], records[-40:]))
    assert np.mean(last) + 3 * np.std(last) / 40**0.5 < np.mean(first) - 3 * np.std(first) / 40**0.5
    assert trainer.run(progress=False) == []


def test_a_state_goes_on_to_the_same_bits(fokker, start, tmp_path):
    whole = fokker.train("blob", start, progress=False, **SMALL)
    trainer = fokker.Trainer(start, "blob", **SMALL)
    trainer.run(5, progress=False)
    trainer.save_state(tmp_path / "state")
    resumed = fokker.Trainer.resume(tmp_path / "state", "blob")
    assert resumed.iteration == 5
    resumed.run(progress=False)
    assert np.array_equal(resumed.model.parameters, whole.parameters)
    again = fokker.train("blob", state=tmp_path / "state", progress=False)
    assert np.array_equal(again.parameters, whole.parameters)
    with pytest.raises(fokker.Error, match="a model or options are given"):
        fokker.train("blob", state=tmp_path / "state", iterations=5)
    with pytest.raises(fokker.Error):
        fokker.Trainer.resume(tmp_path / "state", "circles2")


def test_an_interruption_keeps_the_state(fokker, start, tmp_path):
    def interrupt(record):
        if record.iteration == 6:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as interrupted:
        fokker.train("blob", start, state=tmp_path / "state", callback=interrupt, progress=False, **SMALL)
    trainer = interrupted.value.trainer
    assert trainer.iteration == 7 and len(trainer.history) == 7
    whole = fokker.train("blob", start, progress=False, **SMALL)
    assert np.array_equal(fokker.train("blob", state=tmp_path / "state", progress=False).parameters, whole.parameters)
    trainer.run(progress=False)
    assert np.array_equal(trainer.model.parameters, whole.parameters)


def test_a_signal_from_outside_ends_it(tmp_path):
    """As Ctrl-C comes: to a process that is in the library, without a callback."""
    code = ("import fokker, sys\n"
            "def news(record):\n    if record.iteration == 3: print('begun', flush=True)\n"
            "try:\n    fokker.train('blob', iterations=10**9, denoising_points=64, state=sys.argv[1], callback=news)\n"
            "except KeyboardInterrupt as interrupt:\n    print(interrupt.trainer.iteration > 3)\n")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "True\n"
    assert process.returncode == 0 and (tmp_path / "state").exists()


def test_callbacks_end_a_run(fokker, start):
    trainer = fokker.Trainer(start, "blob", **SMALL)
    assert len(trainer.run(progress=False, callback=lambda record: record.iteration < 4)) == 5

    def fail(record):
        raise RuntimeError("of the callback")

    with pytest.raises(RuntimeError, match="of the callback"):
        trainer.run(progress=False, callback=fail)
    assert trainer.iteration == 6
    with pytest.raises(fokker.Error, match="a trainer that is running is called"):
        trainer.run(1, progress=False, callback=lambda record: trainer.run(1))


def test_the_bar(fokker, start, capsys):
    fokker.train("blob", start, progress=True, **SMALL)
    said = capsys.readouterr()
    assert said.out == "" and said.err.endswith("\n") and "12/12, denoising" in said.err
    fokker.train("blob", start, **SMALL)
    assert capsys.readouterr().err == ""  # which is no terminal


def test_data_of_arrays_and_defaults(fokker):
    samples = np.random.default_rng(5).normal(size=(500, 3))
    model = fokker.train(samples, iterations=2, denoising_points=32, progress=False)
    assert model.dimension == 3 and "softplus(20)" in repr(model)


def test_the_residual_by_probes(fokker):
    """Of one column Rademacher's probes are ±1, whose estimates are the residual itself; those of other laws are not."""
    samples = np.random.default_rng(5).normal(size=(500, 1))
    begin = fokker.initialise(dimension=1, hidden=(16, 16), beta=20, seed=3)

    def residual(**options):
        (record,) = fokker.Trainer(begin, samples, **SMALL, **options).run(1, progress=False)
        return record.residual

    exact = residual()
    assert exact > 0 and residual(residual_probes=0, probe_law="gaussian") == exact
    assert residual(residual_probes=2) == residual(residual_probes=2, probe_law="rademacher")
    assert abs(residual(residual_probes=2) - exact) <= 1e-5 * exact
    assert abs(residual(residual_probes=2, probe_law="gaussian") - exact) > 1e-3 * exact


def test_refusals(fokker, start):
    for call, words in [
        (lambda: fokker.Trainer(start, "blob", epochs=3), "the option epochs is not known; allowed: iterations"),
        (lambda: fokker.Trainer(start, "blob", iterations=-1), "iterations"),
        (lambda: fokker.Trainer(start, "blob", iterations="many"), "iterations is 'many'"),
        (lambda: fokker.Trainer(start, "blob", schedule="linear"), "linear"),
        (lambda: fokker.Trainer(start, "blob", probe_law="sometimes"), "sometimes"),
        (lambda: fokker.Trainer(start, "blob", residual_probes=-1), "the number of probes, 0 for the exact residual,"),
        (lambda: fokker.Trainer(start, np.zeros((5, 3))), "3"),
        (lambda: fokker.Trainer(fokker.mixture([1], [[0.0, 0.0]], 1.0), "blob"), "mixture"),
        (lambda: fokker.Trainer.resume("nowhere", "blob"), "nowhere"),
    ]:
        with pytest.raises(fokker.Error) as refused:
            call()
        assert words in str(refused.value), str(refused.value)
    with pytest.raises(fokker.Error, match="count is 1.5; allowed: a whole number"):
        fokker.Trainer(start, "blob").run(1.5)


def test_what_ends_a_training_keeps_it(fokker, start, tmp_path):
    with pytest.raises(fokker.TrainingStopped) as stopped:
        fokker.train("blob", start, state=tmp_path / "stopped", progress=False, peak_rate=1e30, **SMALL)
    assert isinstance(stopped.value, fokker.Error)
    assert fokker.Trainer.resume(tmp_path / "stopped", "blob").iteration == stopped.value.trainer.iteration > 0

    def fail(record):
        if record.iteration == 4:
            raise RuntimeError("of the callback")

    with pytest.raises(RuntimeError, match="of the callback") as failed:
        fokker.train("blob", start, state=tmp_path / "failed", progress=False, callback=fail, **SMALL)
    assert failed.value.trainer.iteration == fokker.Trainer.resume(tmp_path / "failed", "blob").iteration == 5
    with pytest.raises(fokker.Error, match="nowhere") as unwritten:
        fokker.train("blob", start, state=tmp_path / "nowhere" / "state", progress=False, **SMALL)
    assert unwritten.value.trainer.iteration == SMALL["iterations"]
