"""Run a model of diffusers on a schedule of your own: in a pipeline, and in a sampling loop."""

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, UNet2DModel

from art_env import Schedule, sample, to_diffusers
from art_env.adapters import DiffusersDenoiser
from art_env.export import diffusers_kwargs

# A schedule that was learned is a file: Schedule.load("runs/NAME/schedule.json").
schedule = Schedule(np.array([80.0, 12.0, 4.0, 1.6, 0.5, 0.0]), name="mine")
scheduler = (
    EulerDiscreteScheduler()
)  # with a pipeline: EulerDiscreteScheduler.from_config(pipe.scheduler.config)

# A pipeline sets its scheduler by itself, so hand it the noise levels: pipe(prompt, **kwargs).
kwargs = diffusers_kwargs(schedule, scheduler)
print("pipe(prompt, **kwargs) with kwargs =", kwargs)

# In a loop of your own, set the scheduler once. This network is tiny and untrained: nothing is downloaded.
torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(8, 16),
    norm_num_groups=4,
    layers_per_block=1,
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
).eval()
to_diffusers(schedule, scheduler)
noise = schedule.sigma_max * torch.randn(4, 1, 8, 8)
x = noise
for step, t in enumerate(scheduler.timesteps):
    with torch.no_grad():
        output = unet(scheduler.scale_model_input(x, t), t).sample
    print(f"step {step + 1}: noise level {scheduler.sigmas[step]:.4g} -> {scheduler.sigmas[step + 1]:.4g}")
    x = scheduler.step(output, t, x).prev_sample

# The same samples with the solver of this package: the scheduler follows the schedule exactly.
with torch.no_grad():
    ours = sample(DiffusersDenoiser(unet, scheduler), noise, schedule.sigmas, "euler")
difference = float((x - ours).abs().max() / ours.abs().max())
print(f"largest difference from art_env's own Euler: {difference:.0e} of the largest pixel")
