import fokker
import numpy as np

model = fokker.train("circles2", iterations=300, residual_weight=1)  # with a progress bar
x = np.random.default_rng(1).normal(size=(1000, 2)).astype(np.float32)
score = model.score(0.1, x)  # of NumPy, PyTorch, JAX or CuPy in and out, without a copy
residual = model.residual(0.1, x)

samples = fokker.sample(model, 10000, scheme="heun", grid="geometric:150:1e-3", seed=1)
gap = fokker.gap(model, "circles2", samples=10000, grid="geometric:150:1e-3")
print(f"W2² between the two samplers: {gap.ode_sde:.4f}, noise floor {gap.noise_floor:.4f}")
print(f"W2² of the samples to data: {fokker.w2_squared(samples, fokker.DataSet('circles2').draw(10000)):.4f}")
model.save("circles2.safetensors")
