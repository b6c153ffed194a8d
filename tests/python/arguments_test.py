"""Every argument of every public function, given something of another type: a sentence of the library's, which names the argument and
what is allowed."""

import inspect

import numpy as np
import pytest


class Odd:
    """What no argument may be; its repr has several lines."""

    def __repr__(self):
        return "<an\nodd thing>"


WRONG = {
    "text": [3, None, b"heun", Odd(), ["heun"], np.zeros(2)],
    "text or none": [3, b"heun", Odd(), ["heun"], np.zeros(2)],
    "number": ["0.5", None, 1j, Odd(), [0.5, 1.0], {}, 10**400, 10**5000],
    "number or none": ["0.5", 1j, Odd(), [0.5, 1.0], {}, 10**400],
    "whole": ["5", None, 0.5, -1, 2**70, Odd(), [5]],
    "whole or none": ["5", 0.5, -1, 2**70, Odd(), [5]],
    "flag": ["no", None, 3, Odd(), [True]],
    "flag or none": ["no", 3, Odd(), [True]],
    "path": [3, None, Odd(), ["a"], np.zeros(2)],
    "path or none": [3, Odd(), ["a"], np.zeros(2)],
    "model": [3, None, "ou", Odd(), np.zeros(2)],
    "model or none": [3, "ou", Odd(), np.zeros(2)],
    "array": ["x", None, Odd(), {}, [["a"]], 1j, np.array(["a"]), [["1", "2"]], [[None, 1.0]], [[1, 2], [3]], [[10**400, 1]]],
    "array or none": ["x", Odd(), {}, [["a"]], 1j, [["1", "2"]], [[None, 1.0]], [[1, 2], [3]]],
    "array only": ["x", Odd(), {}, 3],
    "time": ["0.5", None, Odd(), {}, ["a"], 1j, ["1"], [None], 10**400],
    "times or none": [3, Odd(), {}, ["a"], 1j, [10**400]],
    "law": [3 + 1j, None, Odd(), {}, b"blob", [["a"]], np.array(["a"]), [["1", "2"]], [[None, 1.0]]],
    "texts": [3, None, "score", Odd(), [3], [None]],
    "dict of texts": [3, "a", Odd(), {"a": 3}, [("a", "b")]],
    "dict": [3, "a", Odd(), {"a": Odd()}, [("rate", 1)]],
    "terms": [3, None, "a", Odd(), [3], [("half",)], [(1.0, "model")], [("half", 3)]],
    "function": [3, "f", Odd(), []],
    "box": ["wide", None, Odd(), {}, [1, 2, 3], ["a", "b"], ["1", "2"]],
    "numbers": [3, None, "a", Odd(), ["a"], {}, [10**400]],
}


@pytest.fixture
def table(fokker, network, tmp_path):
    """For each function: the call with keyword arguments that are right, and of each argument its kind."""
    gaussian, x = fokker.mixture([1], [[0.5, 0.0]], 1.0), np.zeros((5, 2), np.float32)
    state, model = tmp_path / "state", tmp_path / "model.safetensors"
    trainer = fokker.Trainer(network, np.zeros((5, 3)) + np.arange(3), iterations=2, denoising_points=8)
    trainer.save_state(state)
    network.save(model)
    probes = dict(probes="whole", law="text", seed="whole")
    point = dict(t="time", x="array", condition="array or none")
    field = dict(t=0.5, x=x)
    train = {"iterations": "whole", "peak_rate": "number", "box": "number", "schedule": "text", "seed": "whole", "average": "text"}
    return {
        "load": (fokker.load, dict(path=model), dict(path="path")),
        "initialise": (fokker.initialise, {}, dict(seed="whole")),
        "mixture": (fokker.mixture, dict(weights=[1], means=[[0.0]], covariances=1.0),
                    dict(weights="array", means="array", covariances="array", sde="text", sde_parameters="dict")),
        "compose": (fokker.compose, dict(terms=[(1.0, gaussian)]), dict(terms="terms")),
        "guided": (fokker.guided, dict(given=gaussian, without=gaussian, scale=2.0), dict(given="model", without="model", scale="number")),
        "Model": (fokker.Model, dict(model=gaussian), dict(model="model")),
        "Model.fields": (gaussian.fields, {**field, "names": ["score"]}, {**point, "names": "texts", **probes}),
        "Model.value": (gaussian.value, field, point),
        "Model.dt": (gaussian.dt, field, point),
        "Model.score": (gaussian.score, field, point),
        "Model.divergence": (gaussian.divergence, field, {**point, **probes}),
        "Model.hessian": (gaussian.hessian, field, point),
        "Model.hessian_vector": (gaussian.hessian_vector, {**field, "direction": x}, {**point, "direction": "array"}),
        "Model.residual": (gaussian.residual, field, {**point, **probes}),
        "Model.log_density": (gaussian.log_density, field, {**point, "t": "number", "scheme": "text", "tolerance": "number",
                                                            "grid": "times or none", **probes}),
        "Model.given": (gaussian.given, dict(condition=[1.0]), dict(condition="array")),
        "Model.replaced": (network.replaced, dict(parameters=network.parameters), dict(parameters="array")),
        "Model.coefficients": (gaussian.coefficients, dict(t=0.5), dict(t="number")),
        "Model.save": (network.save, dict(path=tmp_path / "again.safetensors"), dict(path="path", metadata="dict of texts")),
        "sample": (fokker.sample, dict(model=gaussian, n=5, grid="uniform:3"),
                   {**probes, "model": "model", "n": "whole or none", "scheme": "text", "grid": "times or none", "condition": "array or none",
                    "first_index": "whole", "eta": "number or none", "temperature": "number", "langevin": "number", "churn": "numbers",
                    "noise_in_last_step": "flag", "end": "number or none", "tolerance": "number", "log_density": "flag",
                    "probe_seed": "whole", "like": "array or none", "out": "array only"}),
        "gap": (fokker.gap, dict(model=gaussian, data="blob", samples=10, grid="uniform:3"),
                dict(model="model", data="law", grid="times or none", samples="whole", seed="whole", ode_scheme="text", box="box",
                     nodes="whole", in_detail="flag", sliced="flag", device="text")),
        "w2": (fokker.w2, dict(a=x, b=x), dict(a="array", b="array")),
        "w2_squared": (fokker.w2_squared, dict(a=x, b=x), dict(a="array", b="array", method="text or none", box="box", nodes="whole")),
        "w2_squared by lines": (fokker.w2_squared, dict(a=x, b=x, method="sliced"), dict(projections="whole", seed="whole")),
        "DataSet": (fokker.DataSet, dict(law="blob"), dict(law="law")),
        "DataSet.draw": (fokker.DataSet("blob").draw, dict(n=5), dict(n="whole", seed="whole", first_index="whole", step="whole",
                                                                     like="array only")),
        "Trainer": (fokker.Trainer, dict(model=network, data=np.ones((5, 3))), {**train, "model": "model", "data": "law", "device": "text"}),
        "Trainer.resume": (fokker.Trainer.resume, dict(path=state, data=np.ones((5, 3))), dict(path="path", data="law", device="text")),
        "Trainer.run": (trainer.run, dict(count=1), dict(count="whole or none", callback="function", progress="flag or none")),
        "Trainer.save_state": (trainer.save_state, dict(path=state), dict(path="path")),
        "train": (fokker.train, dict(data=np.ones((5, 3)), iterations=1, denoising_points=8),
                  {**train, "data": "law", "model": "model or none", "state": "path or none", "callback": "function",
                   "progress": "flag or none", "device": "text"}),
    }


def public(fokker):
    """(name, function) of all that the package and its classes show, but for what has no arguments, is no call of a user's, or is a
    record."""
    for name in fokker.__all__:
        found = getattr(fokker, name)
        if not callable(found) or name in ("Error", "TrainingStopped", "Gap", "Record", "backends"):
            continue
        yield name, found
        if inspect.isclass(found):
            for part in dir(found):
                if not part.startswith("_") and callable(getattr(found, part)):
                    yield f"{name}.{part}", getattr(found, part)


def test_every_argument_is_looked_at(fokker, table):
    # Those of the extension module take nothing.
    bare = {"Model.line", "Model.standardisation", "Model.contents", "Model.reduced", "Model.without_condition"}
    for name, function in public(fokker):
        if name in bare:
            continue
        kinds = {key for entry, (_, _, kinds) in table.items() if entry.split(" ")[0] == name for key in kinds}
        wanted = {p.name for p in inspect.signature(function).parameters.values()
                  if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        assert wanted <= kinds, (name, wanted - kinds)


def refused(fokker, what, call, arguments, kinds):
    """The sentences that are none, of all wrong values of all arguments."""
    bad = []
    for name, kind in kinds.items():
        for wrong in WRONG[kind]:
            try:
                call(**{**arguments, name: wrong})
                bad.append((what, name, wrong, "it is taken"))
            except fokker.Error as error:
                said = str(error)
                if name not in said or "allowed" not in said or "\n" in said:
                    bad.append((what, name, wrong, said))
            except Exception as error:  # of any other kind
                bad.append((what, name, wrong, repr(error)))
    return bad


def test_each_is_refused_by_a_sentence(fokker, table):
    bad = [found for what, entry in table.items() for found in refused(fokker, what, *entry)]
    assert not bad, "\n".join(map(str, bad))


def test_options_of_networks(fokker):
    for wrong in (None, True, Odd(), b"silu", [None], {"a": Odd()}):
        with pytest.raises(fokker.Error, match="activation is .*; allowed: "):
            fokker.initialise(activation=wrong)
    for wrong in ([[1, 2], [3]], [[1, 2]], np.ones((2, 2)), 10**400, [10**5000]):
        with pytest.raises(fokker.Error, match="hidden is .*; allowed: "):
            fokker.initialise(hidden=wrong)
    model = fokker.initialise(hidden=np.array([7, 5]), activation="silu", sde_parameters={"rate": 2})
    assert "3–7–5–1, silu" in repr(model) and model.sde["rate"] == 2


def test_numbers_of_numpy_are_numbers(fokker, network):
    options = dict(iterations=np.int64(3), peak_rate=np.float32(0.5), box=2, residual_probes=np.int32(1), seed=np.uint64(2**64 - 1),
                   schedule=np.str_("constant"))
    assert fokker.Trainer(network, np.ones((5, 3)), **options).iterations == 3


def test_those_of_what_needs_torch(fokker, network):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def forward(self, x, t):
            return x

    net = Net()
    residual, denoising = fokker.autograd.ResidualLoss(network), fokker.autograd.DenoisingLoss(network)
    x, theta = torch.zeros(5, 3), torch.from_numpy(network.parameters).float()
    tensor = [3, "x", Odd(), np.zeros((5, 3), np.float32)]
    WRONG.update({"tensor": [None, *tensor], "tensor or none": tensor, "module": [3, None, "net", Odd()],
                  "example": [3, None, "a", Odd(), {"x": Odd(), "t": 0.5}, {"x": "a", "t": 0.5}],
                  "sde": [3, Odd(), ["ou"], np.zeros(2)]})
    point = dict(t="time", x="tensor")
    bad = []
    for entry in [
        ("value", fokker.autograd.value, dict(model=network, t=0.5, x=x), {**point, "model": "model"}),
        ("score", fokker.autograd.score, dict(model=network, t=0.5, x=x), {**point, "model": "model", "condition": "array or none"}),
        ("parameters_of", fokker.autograd.parameters_of, dict(module=net, model=network), dict(module="module", model="model")),
        ("ResidualLoss", fokker.autograd.ResidualLoss, dict(model=network), dict(model="model")),
        ("ResidualLoss.()", residual, dict(t=0.5, x=x, parameters=theta), {**point, "parameters": "tensor or none", "condition": "tensor or none"}),
        ("DenoisingLoss.()", denoising, dict(t=0.5, x=x, target=x, parameters=theta),
         {**point, "target": "tensor", "weight": "tensor or none", "condition": "tensor or none", "parameters": "tensor or none"}),
        ("from_torch", fokker.from_torch, dict(module=net, example=dict(x=x, t=torch.zeros(5)), sde="ou", output="score"),
         dict(example="example", sde="sde", output="text", sde_parameters="dict", data_deviation="number or none", time="text")),
    ]:
        bad += refused(fokker, *entry)
    assert not bad, "\n".join(map(str, bad))


def test_tensors_that_become_numbers(fokker):
    torch = pytest.importorskip("torch")
    means = torch.tensor([[0.5, -1.25]])
    wanted = fokker.mixture([1], means.tolist(), 1.0).score(0.5, [[1.0, 2.0]]).tolist()
    for given in (means.bfloat16(), means.half(), means.double()):
        assert fokker.mixture(torch.tensor([1]), given, 1.0).score(0.5, [[1.0, 2.0]]).tolist() == wanted
    with pytest.raises(fokker.Error, match="means of tensors that require gradients.*allowed"):
        fokker.mixture([1], means.requires_grad_(), 1.0)
    with torch.no_grad():
        assert fokker.mixture([1], means, 1.0).score(0.5, [[1.0, 2.0]]).tolist() == wanted


def test_those_of_figures(fokker):
    pytest.importorskip("matplotlib")
    bad = []
    for entry in [
        ("densities", fokker.plot.densities, {}, dict(source="path")),
        *[(make, getattr(fokker.plot, make), {}, dict(folder="path")) for make in ("curves", "gaps", "gap_over_time", "gap_along_eta", "report")],
    ]:
        bad += refused(fokker, *entry)
    assert not bad, "\n".join(map(str, bad))
