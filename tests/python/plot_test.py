"""fokker.plot: figures of a gap and of a folder of `reproduce`, and the report, with matplotlib's settings left alone."""

import os
import subprocess

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("svg")  # not what report.py chooses


def test_densities_of_a_gap(fokker):
    model = fokker.mixture([1], [[0.5, 0.0]], 0.3)
    before = dict(matplotlib.rcParams)
    gap = fokker.gap(model, "blob", samples=2000, grid="geometric:30:1e-2")
    figure = fokker.plot.densities(gap)
    assert len(figure.axes) == 4 and figure.axes[1].get_title() == "reverse SDE"
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend().lower() == "svg"
    with pytest.raises(fokker.Error, match="one half width"):
        fokker.plot.densities(fokker.gap(model, "blob", samples=2000, grid="geometric:30:1e-2", box=(-3, 4)))


def test_a_folder_of_reproduce(fokker, tmp_path):
    tool = os.environ.get("REPRODUCE_TOOL")
    if not tool:
        pytest.skip("reproduce is not built")
    subprocess.run([tool, "--preset", "smoke", "--data", "blob", "--weights", "0,1", "--out", tmp_path / "out"], check=True, capture_output=True)
    assert len(fokker.plot.densities(tmp_path / "out").axes) == 7
    for make in (fokker.plot.curves, fokker.plot.gaps):
        make(tmp_path / "out").savefig(tmp_path / "figure.svg")
    for make in (fokker.plot.gap_over_time, fokker.plot.gap_along_eta):  # which this preset does not measure
        with pytest.raises(fokker.Error, match="nothing for this figure"):
            make(tmp_path / "out")
    page = fokker.plot.report(tmp_path / "out", tmp_path / "page.html")
    assert "probability-flow" in open(page, encoding="utf-8").read()
    with pytest.raises(fokker.Error, match="the data 'checker' are asked for"):
        fokker.plot.gaps(tmp_path / "out", data="checker")
