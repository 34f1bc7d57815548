"""The configuration of a tokenizer's architecture.

It holds every size that the network needs; everything else is derived. `from_published` reads the keyword dictionaries
with which NVIDIA's Cosmos tokenizers are built.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

FSQ_LEVELS = (8, 8, 8, 5, 5, 5)
QUANTIZERS = ("fsq", "residual_fsq", "lfq", "vq", "ae", "vae")
MOST_CHANNELS = 64  # of a frame
# Fields added after 0.1.0, with their defaults: older configurations and fingerprints lack them.
_ADDED: dict[str, object] = {
    "refinement": 0,
    "corrections": 0,
    "in_channels": 3,
    "latents_mean": [],
    "latents_std": [],
}
_LONG_NAMES = {"Continuous": "C", "Discrete": "D", "Video": "V", "Image": "I"}  # of the published classes


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of one tokenizer of the Cosmos family.

    Channel tuples list the levels from the finest to the coarsest. The quantizer is one of `QUANTIZERS`: the first
    four are discrete, "ae" and "vae" are the continuous bottlenecks. Raises ValueError for sizes that do not fit.
    """

    name: str
    video: bool = True
    spatial_compression: int = 8  # pixels per token along height and width, wavelet included
    temporal_compression: int = 4  # frames per token (the group), wavelet included; 1 for image models
    patch_size: int = 4  # of the wavelet, in pixels and frames: 2 or 4
    in_channels: int = 3  # of a frame: 3 is RGB, 1 a depth or thermal image, others such as lidar
    stem_channels: int = 128  # of the first convolution
    encoder_channels: tuple[int, ...] = (256, 512, 512)
    decoder_channels: tuple[int, ...] = (256, 512, 512)
    encoder_blocks: tuple[int, ...] = (2, 2, 2)  # residual blocks of each level
    decoder_blocks: tuple[int, ...] = (3, 3, 3)
    attention_levels: tuple[int, ...] = ()  # levels with attention after each residual block
    mid: bool = True  # residual blocks between encoder and latent, and between latent and decoder
    mid_attention: bool = True  # attention between these blocks
    slim: bool = False  # upsampling reduces channels before it repeats pixels; the decoder's last conv is spatial only
    num_groups: int = 1  # of GroupNorm; statistics are those of single frames
    legacy_mode: bool = False  # the older published decoders double time from their first level on, not the second
    z_channels: int = 16  # encoder's output, before quant_conv
    z_factor: int = 1  # the encoder gives z_factor * z_channels; 2 in published variational models
    latent_channels: int = 6  # of the latent that is quantized: one per FSQ level
    quantizer: str = "fsq"
    levels: tuple[int, ...] = FSQ_LEVELS  # of FSQ and residual FSQ
    codebook_bits: int = 16  # of LFQ and VQ
    num_quantizers: int = 1  # of residual FSQ
    context: int = 32  # latent steps that temporal attention sees
    predictive: bool = False  # the encoder also sees the difference from the last decoded frame (closed loop)
    refinement: int = 0  # codewords with which a token refines its cell instead of coding it anew (closed loop)
    corrections: int = 0  # times that a closed-loop encoder decodes its draft and corrects it by its error
    dropout: float = 0.0  # in residual blocks, while training
    # Statistics of continuous latents, (C * K,) by channel, then by latent step of a clip; empty if not known.
    latents_mean: tuple[float, ...] = field(default=(), repr=False)
    latents_std: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            if isinstance(getattr(self, item.name), list):
                object.__setattr__(self, item.name, tuple(getattr(self, item.name)))
        if self.quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer is {self.quantizer!r}, expected one of {', '.join(QUANTIZERS)}")
        for name in ("spatial_compression", "temporal_compression", "patch_size"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} is {value}, expected a power of two")
        if self.patch_size not in (2, 4) or self.patch_size > self.spatial_compression:
            raise ValueError(
                f"patch_size is {self.patch_size}, expected 2 or 4 and at most "
                f"spatial_compression ({self.spatial_compression})"
            )
        if self.video and self.temporal_compression < self.patch_size:
            raise ValueError(
                f"temporal_compression is {self.temporal_compression}, a video tokenizer of patch_size "
                f"{self.patch_size} compresses time at least as much"
            )
        if not self.video and self.temporal_compression != 1:
            raise ValueError(f"temporal_compression is {self.temporal_compression}, an image tokenizer has 1")
        self._check_levels()
        self._check_content()
        self._check_statistics()

    def _check_levels(self) -> None:
        for channels, blocks, part in (
            (self.encoder_channels, self.encoder_blocks, "encoder"),
            (self.decoder_channels, self.decoder_blocks, "decoder"),
        ):
            if len(channels) != len(blocks):
                raise ValueError(f"{part}_channels {channels} and {part}_blocks {blocks} differ in length")
            # Published image models resample after every level, video models and ours not after the coarsest.
            needed = max(self.spatial_resamplings, self.temporal_resamplings) + (self.video or self.slim)
            if len(channels) < needed:
                raise ValueError(f"{part}_channels {channels} has {len(channels)} levels, resampling needs {needed}")
        ups = [self.upsampling(level) for level in range(len(self.decoder_channels))]
        doubled = (sum(space for space, _ in ups), sum(time for _, time in ups))
        if doubled != (self.spatial_resamplings, self.temporal_resamplings):
            raise ValueError(
                f"a decoder of {len(ups)} levels doubles (space, time) {doubled} times, the encoder halves them "
                f"{(self.spatial_resamplings, self.temporal_resamplings)} times; give decoder_channels another level"
            )

    def _check_content(self) -> None:
        if self.quantizer == "fsq" and self.latent_channels != len(self.levels):
            raise ValueError(
                f"latent_channels is {self.latent_channels}, FSQ levels {self.levels} need {len(self.levels)}"
            )
        if not 1 <= self.in_channels <= MOST_CHANNELS:
            raise ValueError(f"in_channels is {self.in_channels}, expected 1..{MOST_CHANNELS}")
        if self.context < 1:
            raise ValueError(f"context is {self.context}, expected at least 1 latent step")
        if self.predictive and (self.temporal_compression != self.patch_size or not self.video):
            raise ValueError("a predictive tokenizer needs a video model with temporal_compression == patch_size")
        if self.refinement and (self.refinement < 0 or not self.video or self.quantizer != "fsq"):
            raise ValueError(f"refinement is {self.refinement}, expected 0, or codewords and a video model of 'fsq'")
        if self.corrections < 0:
            raise ValueError(f"corrections is {self.corrections}, expected 0 or more")
        if self.corrections and (not self.closed_loop or self.quantizer == "vae"):
            raise ValueError(
                "a corrector needs a decoder in the loop, so a model that is predictive or has refinement, and a "
                f"latent that is not drawn at random: quantizer is {self.quantizer!r}, 'vae' draws"
            )

    def _check_statistics(self) -> None:
        mean, deviation = self.latents_mean, self.latents_std
        fits = len(mean) == len(deviation) and not len(mean) % self.latent_channels and not (mean and self.discrete)
        if not fits or not all(map(math.isfinite, mean + deviation)) or min(deviation, default=1) <= 0:
            raise ValueError(
                f"latents_mean ({len(mean)} values) and latents_std ({len(deviation)}, above 0) are finite numbers, as "
                f"many of both, for a continuous latent and each of its {self.latent_channels} channels"
            )

    @property
    def spatial_resamplings(self) -> int:
        """The number of levels that halve height and width, after the wavelet."""
        return round(math.log2(self.spatial_compression / self.patch_size))

    @property
    def temporal_resamplings(self) -> int:
        """The number of levels that halve time, after the wavelet."""
        return round(math.log2(self.temporal_compression / self.patch_size)) if self.video else 0

    def upsampling(self, level: int) -> tuple[bool, bool]:
        """Whether a decoder level (0 is the finest) doubles (space, time): the published rule, from the coarsest on."""
        r = len(self.decoder_channels) - 1 - level
        n_space, n_time = self.spatial_resamplings, self.temporal_resamplings
        if not self.video:
            return r < n_space, False
        if level == 0:
            return False, False
        time = r < n_time if self.legacy_mode else 0 < r <= n_time
        return time or (r < n_space and n_space > n_time), time

    @property
    def patch_channels(self) -> int:
        """Channels of the wavelet transform: those of a frame times the number of bands."""
        return self.in_channels * self.patch_size ** (3 if self.video else 2)

    @property
    def discrete(self) -> bool:
        """Whether the tokenizer gives indices; otherwise latents."""
        return self.quantizer not in ("ae", "vae")

    @property
    def codebook_size(self) -> int | None:
        """The number of values of one index; None for continuous models."""
        if not self.discrete:
            return None
        if self.quantizer in ("fsq", "residual_fsq"):
            return self.content_codes + self.refinement
        return 2**self.codebook_bits

    @property
    def content_codes(self) -> int:
        """The number of FSQ indices that code a cell's content; higher ones refine the content it has already."""
        return math.prod(self.levels)

    @property
    def code_channels(self) -> int:
        """Channels of the decoder's input: the latent's, and with refinement one that marks refined cells."""
        return self.latent_channels + (self.refinement > 0)

    @property
    def closed_loop(self) -> bool:
        """Whether tokens depend on the decoder's output so far, so that the encoder decodes too."""
        return self.predictive or self.refinement > 0

    @property
    def holds_levels(self) -> bool:
        """Whether an encoder can hold the levels of its latent from group to group: a video tokenizer of plain FSQ."""
        return self.video and self.quantizer == "fsq" and not self.refinement

    @property
    def bits_per_token(self) -> float | None:
        """Bits per cell of the grid, all residual quantizers together; None for continuous models."""
        return None if self.codebook_size is None else self.num_quantizers * math.log2(self.codebook_size)

    @property
    def compression_ratio(self) -> float:
        """Bits of raw 8-bit video over bits of tokens (of float16 latents for continuous models), per group."""
        bits = self.bits_per_token or 16 * self.latent_channels
        return 8 * self.in_channels * self.temporal_compression * self.spatial_compression**2 / bits

    @property
    def token_dtype(self) -> str:
        """The dtype of stored and sent tokens: "uint16", "uint32" (above 65,536 codes) or "float16" (continuous)."""
        if self.codebook_size is None:
            return "float16"
        return "uint16" if self.codebook_size <= 1 << 16 else "uint32"

    def pad_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size (height, width), multiples of the grid step, that frames of `size` are padded to."""
        height, width = (-(-side // self.spatial_compression) * self.spatial_compression for side in size)
        return height, width

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The token grid (h, w) of frames of this size; ValueError if a side is no multiple of the grid step."""
        step = self.spatial_compression
        if height % step or width % step or min(height, width) < step:
            raise ValueError(
                f"frames are {height}x{width} (height x width), expected positive multiples of {step}; "
                "resize or pad to {}x{}".format(*self.pad_size((height, width)))
            )
        return height // step, width // step

    def to_dict(self) -> dict:
        """Plain values, as config.json stores them, without later fields (`_ADDED`) that have their default."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in values.items() if key not in _ADDED or value != _ADDED[key]}

    @classmethod
    def from_dict(cls, values: Mapping) -> "TokenizerConfig":
        """The inverse of `to_dict`; ValueError names unknown keys."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown configuration keys {unknown}; known: {sorted(known)}")
        return cls(**dict(values))

    @classmethod
    def from_published(cls, values: Mapping, name: str | None = None) -> "TokenizerConfig":
        """Read the keyword dictionary of a published Cosmos tokenizer (name CI, DI, CV or DV, or a class's)."""
        kind = _read_published_kind(values)
        video, discrete = kind.endswith("V"), kind.startswith("D")
        mult = tuple(values["channels_mult"])
        temporal = values["temporal_compression"] if video else 1
        # In the first release (patch 4), the continuous video class has one decoder level less at 4x.
        shortened = kind == "CV" and temporal == 4 and values["patch_size"] == 4 and mult == (2, 4, 4)
        decoder_mult = (2, 4) if shortened else mult
        decoder_mult = tuple(values.get("decoder_channels_mult", decoder_mult))
        channels, blocks = values["channels"], values["num_res_blocks"]
        coarse = [values["resolution"] // values["patch_size"] // 2**level for level in range(len(mult))]
        quantizer = "fsq" if discrete else str(values.get("formulation", "AE")).lower()
        spatial = values["spatial_compression"]
        return cls(
            name=name or f"cosmos-{kind.lower()}{f'{temporal}x' if video else ''}{spatial}x{spatial}",
            video=video,
            spatial_compression=spatial,
            temporal_compression=temporal,
            patch_size=values["patch_size"],
            in_channels=values.get("in_channels", 3),
            stem_channels=channels,
            encoder_channels=tuple(channels * m for m in mult),
            decoder_channels=tuple(channels * m for m in decoder_mult),
            encoder_blocks=(blocks,) * len(mult),
            decoder_blocks=(blocks + 1,) * len(decoder_mult),
            attention_levels=tuple(i for i, size in enumerate(coarse) if size in values.get("attn_resolutions", ())),
            num_groups=values.get("num_groups", 1) if video else 32,
            legacy_mode=values.get("legacy_mode", False),
            z_channels=values["z_channels"],
            z_factor=values.get("z_factor", 1),
            latent_channels=values["embedding_dim"] if discrete else values["latent_channels"],
            quantizer=quantizer,
            levels=tuple(values["levels"]) if discrete else FSQ_LEVELS,
            dropout=values.get("dropout", 0.0),
        )


def _read_published_kind(values: Mapping) -> str:
    """The kind CI, DI, CV or DV; ValueError for another architecture."""
    called = str(values.get("name", ""))
    kind = "".join(letter for word, letter in _LONG_NAMES.items() if word in called) or called.upper()
    if kind not in ("CI", "DI", "CV", "DV"):
        raise ValueError(f"the published config's name is {called!r}, expected CI, DI, CV or DV")
    if values.get("patch_method", "haar") != "haar":
        raise ValueError(f"the published config's patch_method is {values['patch_method']!r}, expected 'haar'")
    if kind.startswith("D") and str(values.get("quantizer", "FSQ")).upper() != "FSQ":
        raise ValueError(f"the published config's quantizer is {values['quantizer']!r}, expected 'FSQ'")
    return kind
