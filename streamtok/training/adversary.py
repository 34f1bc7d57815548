"""The adversarial loss: a discriminator of overlapping space-time patches, trained beside the tokenizer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from streamtok.training.config import AdversaryConfig


def discriminator(width: int) -> nn.Sequential:
    """Video (B, 3, T, H, W) -> one score per patch, (B, 1, T, H/8, W/8); spectral norm on every layer (Miyato 2018)."""
    sizes = [(3, width), (width, 2 * width), (2 * width, 4 * width)]
    layers: list[nn.Module] = []
    for dim_in, dim_out in sizes:
        layers.append(spectral_norm(nn.Conv3d(dim_in, dim_out, (3, 4, 4), stride=(1, 2, 2), padding=1)))
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, spectral_norm(nn.Conv3d(4 * width, 1, 3, padding=1)))


class Adversary:
    """The discriminator and its optimiser. `fool` is the tokenizer's side, `train` the discriminator's."""

    def __init__(self, config: AdversaryConfig, device: torch.device):
        self.config = config
        self.network = discriminator(config.width).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), config.lr, betas=(0.5, 0.9), weight_decay=0.0)

    def fool(self, reconstruction: Tensor) -> Tensor:
        """The tokenizer's hinge loss, a scalar: lower the more real the reconstruction (B, 3, T, H, W) looks."""
        self.network.requires_grad_(False)
        return -self.network(reconstruction.float()).mean()

    def adaptive_weight(self, rest: Tensor, adversarial: Tensor, reconstruction: Tensor) -> Tensor:
        """The factor that gives the adversarial loss the same gradient norm as all the rest (Esser et al. 2021, eq. 7).

        Of two scalars, a scalar; taken at the reconstruction (B, 3, T, H, W) itself, so that it holds for any decoder.
        """
        sizes = []
        for loss in (rest, adversarial):
            (gradient,) = torch.autograd.grad(loss, reconstruction, retain_graph=True)
            sizes.append(torch.linalg.vector_norm(gradient.float()))
        return (sizes[0] / (sizes[1] + 1e-6)).clamp(max=self.config.max_weight).detach()

    def train(self, source: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator on two videos (B, 3, T, H, W) in -1..1 -> its losses by name, scalars."""
        self.network.requires_grad_(True)
        real = source.detach().float().requires_grad_(self.config.r1 > 0)
        scores, fake = self.network(real), self.network(reconstruction.detach().float())
        hinge = F.relu(1 - scores).mean() + F.relu(1 + fake).mean()
        named = {"discriminator": hinge}
        if self.config.r1 > 0:  # Mescheder et al. 2018, of each video's mean score
            (gradient,) = torch.autograd.grad(scores.flatten(1).mean(1).sum(), real, create_graph=True)
            named["r1"] = gradient.square().sum(dim=(1, 2, 3, 4)).mean()
        self.optimizer.zero_grad()
        (hinge + self.config.r1 / 2 * named.get("r1", hinge * 0)).backward()
        self.optimizer.step()
        return {name: value.detach() for name, value in named.items()}

    def state_dict(self) -> dict:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
