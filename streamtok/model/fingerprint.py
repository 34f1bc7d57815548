"""The weights of a network: what they are, which half of them is there, and the fingerprint that tokens carry."""

import hashlib
import json
from typing import Literal

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig

Half = Literal["encoder", "decoder"]
HALVES: dict[Half, tuple[str, str]] = {"encoder": ("encoder", "quant_conv"), "decoder": ("decoder", "post_quant_conv")}


class Weights(nn.Module):
    """Modules of one configuration, with their precision, device and fingerprint."""

    quant_conv: nn.Conv2d
    post_quant_conv: nn.Conv2d

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        # Cache by the half that is left out: (`stamp` of the hashed weights, fingerprint); stamp None always holds.
        self._fingerprints: dict[Half | None, tuple[tuple | None, str]] = {}
        self.known_as: dict[str, str] = {}  # digest of weights -> fingerprint of others that make the same tokens

    @property
    def group(self) -> int:
        """Frames per group, G."""
        return self.config.temporal_compression

    @property
    def parameters_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self._bottleneck.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._bottleneck.weight.device

    @property
    def _bottleneck(self) -> nn.Conv2d:
        return self.quant_conv if "quant_conv" in self._modules else self.post_quant_conv

    def drop(self, half: Half) -> None:
        """Delete the encoder or the decoder, which a checkpoint lacks; methods that need it then raise ValueError."""
        for name in HALVES[half]:
            delattr(self, name)

    def check_has(self, half: Half) -> None:
        """ValueError if the encoder or the decoder was not in the checkpoint."""
        if half not in self._modules:
            other = "decoder" if half == "encoder" else "encoder"
            raise ValueError(
                f"{self.config.name!r} was loaded from a checkpoint of the {other} alone, which cannot {half[:-1]}; "
                f"load one that holds the {half} too"
            )

    @property
    def fingerprint(self) -> str:
        """Identifies what tokens mean: the `weights_digest`.

        A network with another decoder for the same tokens has the fingerprint of the weights it was made from
        (`known_as`).
        """
        return self._fingerprint_of(None)

    def _fingerprint_of(self, without: Half | None) -> str:
        """The fingerprint, or what it would be without one half; cached until weights change."""
        if self._fingerprints.get(without, ((), ""))[0] not in (None, self.stamp):
            digest = self._digest(without) if without else self.weights_digest
            self._fingerprints[without] = self.stamp, self.known_as.get(digest, digest)
        return self._fingerprints[without][1]

    @property
    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes whenever weights are written or replaced, but not for writes through `.data`."""

        def pointer(tensor: Tensor) -> int:
            return tensor.data_ptr() if tensor.layout is torch.strided else 0  # oneDNN's own layouts have none

        return tuple((id(each), each._version, pointer(each)) for each in (*self.parameters(), *self.buffers()))

    @property
    def weights_digest(self) -> str:
        """Hex digest (128 bits of SHA-256) of configuration and weights, by name, as float32 values."""
        missing = [half for half in HALVES if half not in self._modules]
        return self._digest(missing[0] if missing else None)

    def keep_fingerprint(self, source: "Weights") -> None:
        """Take the fingerprint of `source` until weights change. ValueError unless both encode to the same tokens."""
        if self.config.closed_loop or self._digest("decoder") != source._digest("decoder"):
            raise ValueError(
                f"the tokens of {self.config.name!r} are not those of {source.config.name!r}: its encoder "
                "is another, or has a decoder in its loop"
            )
        self.known_as, self._fingerprints = {self.weights_digest: source.fingerprint}, {}

    def check_fingerprint(self, expected: str, what: str = "expected is tokenizer") -> None:
        """ValueError unless `expected` is the fingerprint of these weights or of their encoder alone; the message
        begins with `what`."""
        halves: tuple[Half | None, ...] = (None, "decoder") if "encoder" in self._modules else (None,)
        if not any(expected == self._fingerprint_of(without) for without in halves):
            raise ValueError(
                f"{what} {expected}, {self.config.name!r} here is {self.fingerprint}: other weights or config, whose "
                "codes mean other pictures; give the checkpoint that the node runs with --model, or the one that "
                "made the file"
            )

    def _digest(self, without: Half | None) -> str:
        """The digest without one half, so that a whole checkpoint accepts what its encoder alone made.

        Statistics of latents do not change what a latent means, so they are left out.
        """
        left_out = (f"{without}_", "legacy", "latents_") if without else ("latents_",)
        config = {name: value for name, value in self.config.to_dict().items() if not name.startswith(left_out)}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        names = tuple(f"{name}." for name in HALVES[without]) if without else ()
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith(names):
                digest.update(name.encode())
                digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]
