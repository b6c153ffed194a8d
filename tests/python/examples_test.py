"""The examples run: README's, and the fine-tuning of a PyTorch net."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "src" / "python" / "examples"


def test_readme_has_its_example():
    """Where README.md has a Python section, it is the file that is run here and by the wheel's test."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks == [(EXAMPLES / "readme.py").read_text(encoding="utf-8")]


def test_fine_tuning_by_the_residual(fokker):
    pytest.importorskip("torch")
    said = subprocess.run([sys.executable, EXAMPLES / "finetune_residual.py", "60", "2000"], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    line = r"mean R² (\S+), W2² ODE–SDE \d\S+, .*\n"
    found = re.fullmatch(f"before: {line}without: {line}with: {line}", said.stdout)
    assert found, said.stdout
    before, without, with_it = map(float, found.groups())
    assert with_it < 0.5 * min(before, without)
