"""Fits the codebooks of a refining tokenizer to the residuals that its network leaves on still pictures.

The network is not trained. Age by age, k-means fits codewords to the residuals that earlier ages have left, each cell
in units of its size. Least squares fits the weights that predict sizes.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from streamtok.config import TokenizerConfig
from streamtok.model import RefiningTokenizer, Tokenizer, build
from streamtok.model.refining import AGES, BOOK_STEP, GREY, SIZE_STEP, measure_contrast, measure_detail, to_cells
from streamtok.training.batches import Sampler
from streamtok.training.cache import load_cache
from streamtok.training.config import DataConfig
from streamtok.training.footage import list_media, split_holdout

ITERATIONS = 10  # of k-means
SAMPLES = 150_000  # cells that a codebook is fitted to
MOST_SUM = 0.98  # of a size's weights: from 1 on, a difference between encoder and decoder would grow
log = logging.getLogger("streamtok.training")


def draw_pictures(places: tuple[str, ...], holdout: tuple[str, ...], count: int, crop: int, seed: int) -> Tensor:
    """Draw crops of images and video frames, float (count, 3, crop, crop) in [-1, 1]; `holdout` is left out."""
    paths, _ = split_holdout(list_media(places), holdout)
    data = DataConfig(scales=(crop,), max_frames=16, stretch=1, brightness=0.0)
    sampler = Sampler(load_cache(paths, data, crop, torch.device("cpu")), data, seed)
    return torch.cat([sampler.cut(sampler.draw(i, 1, 1, crop), 0, 1, crop)[:, :, 0] for i in range(count)])


@torch.no_grad()
def fit_refinement(source: Tokenizer, config: TokenizerConfig, pictures: Tensor, seed: int = 0) -> RefiningTokenizer:
    """A refining tokenizer of `config` with the network of `source`, and codebooks fitted to still pictures.

    Codebooks of a source that already refines are replaced. A predictive source that did not refine has to be trained
    afterwards, because its network has never seen kept cells.

    pictures: float (N, 3, H, W) in [-1, 1], sizes on the token grid. ValueError if the network does not fit `config`.
    """
    model = build(config)
    assert isinstance(model, RefiningTokenizer)
    weights = model.refinement.state_dict(prefix="refinement.")
    weights = {name: value for name, value in source.state_dict().items() if name not in weights} | weights
    if config.predictive and not source.config.refinement and "post_quant_conv.weight" in weights:
        weights["post_quant_conv.weight"] = F.pad(weights["post_quant_conv.weight"], (0, 0, 0, 0, 0, 1))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights of {source.config.name!r} do not fit {config.name!r}: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    shown = torch.cat([_reconstruct(source, part) for part in pictures.split(4)])
    books, cell = model.refinement, config.spatial_compression
    residual = to_cells((pictures - shown.clamp(-1, 1)) * GREY, cell)
    size = _fit_sizes(books.first, measure_contrast(shown, cell), residual)
    everywhere = torch.ones(residual.shape[:3], dtype=torch.bool)
    for age in range(AGES):
        log.info("event=refinement age=%d psnr=%.2f", age, _psnr(residual))
        scaled = (residual * torch.exp(-size)[..., None]).flatten(0, 2)
        book = fit_codebook(_mirror(scaled, cell), size.exp().flatten().repeat(4), config.refinement, generator)
        books.books[age] = (book / BOOK_STEP).round().clamp(-128, 127)
        ages = torch.full(size.shape, age)
        added = books.read(books.find(residual, ages, size, everywhere), ages, size)
        residual = residual - added
        most = MOST_SUM if age == AGES - 1 else torch.inf  # only the last age is used repeatedly
        size = _fit_sizes(books.next[age], measure_detail(size, added, everywhere), residual, most)
    log.info("event=refinement age=%d psnr=%.2f", AGES, _psnr(residual))
    model._fingerprints = {}
    return model


def _reconstruct(model: Tokenizer, pictures: Tensor) -> Tensor:
    """Encode and decode pictures (B, 3, H, W) in [-1, 1] as keyframes -> same. ValueError for a continuous model."""
    indices = model.encode(pictures.to(model.dtype)).indices
    if indices is None:
        raise ValueError(f"{model.config.name!r} is continuous, refinement needs a discrete tokenizer")
    return model.decode(indices)


def fit_codebook(values: Tensor, size: Tensor, words: int, generator: torch.Generator) -> Tensor:
    """k-means: values (N, D) in units of size (N,) -> codewords (words, D), the first of them zero.

    A cell has the square of its size as weight, so that the error counts in grey levels. Cells are sampled by energy
    and reweighted, so that busy ones are well covered.
    """
    energy = (size.square() * values.square().sum(1)).clamp(min=1e-6)
    drawn = torch.multinomial(energy, min(SAMPLES, len(values)), replacement=True, generator=generator)
    values = values[drawn]
    weights = 1 / values.square().sum(1).clamp(min=1e-3)
    book = values[torch.randperm(len(values), generator=generator)[:words]].clone()
    for _ in range(ITERATIONS):
        book[0] = 0
        nearest = torch.cat([(part @ book.T - book.square().sum(1) / 2).argmax(1) for part in values.split(8192)])
        total = torch.zeros(len(book)).index_add_(0, nearest, weights)
        mean = torch.zeros_like(book).index_add_(0, nearest, values * weights[:, None]) / total[:, None]
        spare = values[torch.randint(len(values), (len(book),), generator=generator)]  # restart for empty clusters
        book = torch.where((total > 0)[:, None], mean, spare)
    book[0] = 0
    return book


def _mirror(values: Tensor, cell: int) -> Tensor:
    """Cells (N, colours * cell * cell) with their three mirror images, (4N, ...)."""
    x = values.view(len(values), -1, cell, cell)
    return torch.cat([x, x.flip(3), x.flip(2), x.flip(2, 3)]).flatten(1)


def _fit_sizes(stored: Tensor, features: Tensor, residual: Tensor, most: float = torch.inf) -> Tensor:
    """Fit the weights `stored` int32 (n + 1,) that predict log sizes, in place; all but the bias sum to `most` at most.

    features (N, h, w, n), residual (N, h, w, D) grey levels -> the predicted log sizes (N, h, w).
    """
    ones = torch.ones_like(features[..., :1])
    rows = torch.cat([features, ones], -1).flatten(0, 2).double()
    wanted = torch.log(residual.square().mean(-1) + 0.05).flatten()[:, None].double() / 2
    weights = torch.linalg.lstsq(rows, wanted).solution[:, 0]
    weights[:-1] *= min(1.0, most / float(weights[:-1].sum().clamp(min=1e-9)))
    weights[-1] = (wanted[:, 0] - rows[:, :-1] @ weights[:-1]).mean()
    stored.copy_((weights / SIZE_STEP).round())
    return torch.cat([features, ones], -1) @ (stored.float() * SIZE_STEP)


def _psnr(residual: Tensor) -> float:
    """Mean PSNR over pictures in dB: residual (N, h, w, D) grey levels."""
    return float((10 * torch.log10(255**2 / residual.square().mean((1, 2, 3)).clamp(min=1e-9))).mean())
