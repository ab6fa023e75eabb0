"""The plain training loop of diffusers, as its examples have it: what fedkr's generators are measured against.

The same UNet as ``edm`` has (width, blocks) on the images as they are, torch's default memory order and optimiser, the
noise loss of DDPM (Ho et al. 2020), diffusers' moving average, and DDIM sampling (Song et al. 2021).
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch.nn import functional as F

from fedkr.benchmarks.options import Budget
from fedkr.data.images import ImageSet
from fedkr.generators.edm import Options
from fedkr.generators.edm.network import GROUPS
from fedkr.generators.pixels import to_uint8
from fedkr.learning.batches import BatchOrder
from fedkr.learning.prediction import to_model_input
from fedkr.learning.runtime import Runtime
from fedkr.seeds import torch_rng

NOISE_LEVELS = 1000
# Of the rates that suit networks of this width the quickest; the examples of diffusers have 1e-4 for larger ones.
LR = 1e-3
SAMPLE_BATCH = 256
DDIM_STEPS = 50


class PlainDiffusion:
    """A class-conditional DDPM in training, in its runtime's precision, which draws by ``draw_steps`` steps of DDIM.

    The UNet's options are ``edm``'s defaults but for the width, which is the budget's, as is the batch.
    """

    def __init__(self, data: ImageSet, budget: Budget, runtime: Runtime, draw_steps: int = DDIM_STEPS) -> None:
        torch.manual_seed(0)
        options, width = Options(width=budget.width), budget.width
        self.data, self.device, self.step, self.draw_steps = data, runtime.device, 0, draw_steps
        self.runtime = runtime
        self.net = UNet2DModel(
            sample_size=data.size,
            in_channels=data.channels,
            out_channels=data.channels,
            layers_per_block=options.blocks,
            block_out_channels=(width, width * options.multiplier),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=GROUPS,
            num_class_embeds=len(data.classes),
            add_attention=False,
        ).to(self.device)
        self.noise = DDPMScheduler(num_train_timesteps=NOISE_LEVELS)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=LR)
        self.average = EMAModel(self.net.parameters(), decay=options.ema)
        self.order = BatchOrder(len(data), budget.batch, "plain")

    def advance(self, until: int) -> None:
        """Train up to step ``until``."""
        self.net.train()
        while self.step < until:
            chosen = self.order.at(self.step)
            images = to_model_input(torch.from_numpy(self.data.images[chosen])).contiguous().to(self.device)
            labels = torch.from_numpy(self.data.labels[chosen]).to(self.device)
            noise = torch.randn_like(images)
            times = torch.randint(0, NOISE_LEVELS, (len(images),), device=self.device)
            noisy = self.noise.add_noise(images, noise, times)
            with self.runtime.autocast():
                output = self.net(noisy, times, class_labels=labels).sample
            loss = F.mse_loss(output.float(), noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.step(self.net.parameters())
            self.step += 1

    @property
    def weights(self) -> int:
        """How many weights draw."""
        return sum(weight.numel() for weight in self.net.parameters())

    def take(self) -> None:
        """Do nothing: drawing itself swaps the weights for the averaged ones."""

    @torch.inference_mode()
    def draw(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return uint8 ``[N, H, W, C]``, one image a label, by the averaged weights."""
        self.average.store(self.net.parameters())
        self.average.copy_to(self.net.parameters())
        self.net.eval()
        starts = range(0, len(labels), SAMPLE_BATCH)
        parts = [self._draw_batch(torch.from_numpy(labels[i : i + SAMPLE_BATCH]), i) for i in starts]
        self.average.restore(self.net.parameters())
        return np.concatenate(parts)

    def _draw_batch(self, labels: torch.Tensor, start: int) -> NDArray[np.uint8]:
        scheduler = DDIMScheduler(num_train_timesteps=NOISE_LEVELS)
        scheduler.set_timesteps(self.draw_steps)
        shape = (len(labels), self.data.channels, self.data.size, self.data.size)
        x = torch.randn(shape, generator=torch_rng("plain", "sample", start)).to(self.device)
        for time in scheduler.timesteps:
            with self.runtime.autocast():
                output = self.net(x, time, class_labels=labels.to(self.device)).sample
            x = scheduler.step(output.float(), time, x).prev_sample
        return to_uint8(x.cpu())
