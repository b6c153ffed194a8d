"""A potential net that was trained in PyTorch, fine-tuned there with the Fokker–Planck residual as a regulariser.

usage: finetune_residual.py [ITERATIONS [SAMPLES]]

The net is an ordinary module: the score is its gradient, and both trainings are a loop of torch.optim. What fokker adds is three
lines: the net as fokker has it, the residual as a loss, and its sum with the own loss. Printed are the mean squared residual and the
gap between what the reverse SDE and the probability flow sample: before, after as many iterations without the residual, and with.

The residual falls a hundredfold within seconds, most of it a function of time alone that moves no sample. The gap takes longer:
after trainings as short as the default it is wider with the residual than without, which is why the last two lines stand side by
side; the paper's trainings are a hundred times as long.
"""

import copy
import math
import sys

import fokker
import torch
from torch import nn

T, T_MIN = 10.0, 1e-2  # of the Ornstein–Uhlenbeck process dx = −x dt + dW
WEIGHT = 0.03  # of the residual


class Potential(nn.Module):
    """φ(t, x) ≈ log p_t(x)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.Softplus(beta=20), nn.Linear(64, 64), nn.Softplus(beta=20), nn.Linear(64, 1))

    def forward(self, t, x):
        return self.net(torch.cat([t[:, None], x], dim=1)).squeeze(1)


def denoising_loss(net, x_0):
    """Denoising score matching at times that are uniform in ln t, in units of the noise."""
    t = T_MIN * (T / T_MIN) ** torch.rand(len(x_0))
    mean, variance = torch.exp(-t)[:, None], ((1 - torch.exp(-2 * t)) / 2)[:, None]
    noise = torch.randn_like(x_0)
    x = (mean * x_0 + variance.sqrt() * noise).requires_grad_()
    (score,) = torch.autograd.grad(net(t, x).sum(), x, create_graph=True)
    return ((variance.sqrt() * score + noise) ** 2).mean()


def train(net, data, iterations, rate, regulariser=None):
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for step in range(iterations):
        loss = denoising_loss(net, data.draw(1024, seed=1, step=step, like=torch.empty(0)))
        if regulariser is not None:
            loss = loss + regulariser()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * (step + 1) / iterations)) / 2


def main(iterations=1000, samples=20_000):
    torch.manual_seed(1)
    net, data = Potential(), fokker.DataSet("blob")
    train(net, data, iterations, 5e-3)
    trained = copy.deepcopy(net.state_dict())

    example = dict(t=torch.rand(5), x=torch.randn(5, 2))
    model = fokker.from_torch(net, example, output="potential", sde="ou")  # 1: the net as fokker has it
    residual = fokker.autograd.ResidualLoss(model, net)  # 2: its residual as a loss

    def points(n):
        return T_MIN + (T - T_MIN) * torch.rand(n), 7 * torch.rand(n, 2) - 3.5

    def tell(when):
        with torch.no_grad():
            square = residual(*points(5000)).item()
        gap = fokker.gap(residual.current_model(), data, samples=samples, grid="geometric:150:1e-2")
        print(f"{when}: mean R² {square:.3g}, {gap}")

    tell("before")
    train(net, data, iterations, 3e-3)
    tell("without")
    net.load_state_dict(trained)
    train(net, data, iterations, 3e-3, lambda: WEIGHT * residual(*points(512)))  # 3: beside the own one
    tell("with")


if __name__ == "__main__":
    main(*(int(float(argument)) for argument in sys.argv[1:]))
