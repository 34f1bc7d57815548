"""Refining tokenizers: a token either redraws its cell, or keeps the decoded cell and adds a codeword of detail.

Indices below the product of the FSQ levels redraw, as without refinement. Those above keep the cell as it was last
decoded and add a codeword to it. Its scale, the size, is derived from what encoder and decoder both know. So a still
cell sharpens group after group. Codebooks are not learned by gradient, but fitted to the residuals of still pictures
(`streamtok.training.refinement`). There is one for each age: how often in a row a cell was kept.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.closed_loop import ClosedLoopTokenizer
from streamtok.model.functional import permute_rows
from streamtok.model.network import Coded, widen
from streamtok.model.state import Clock, State, StateSpec

AGES = 8  # older cells use the last codebook
MOVING_COUNTS = 2.5  # weight of motion within a group, which is further off in the next; tuned on held-out clips
MOST_SIZE = 6.0  # bound of the log size: e**6 grey levels are beyond any picture, whatever tokens a decoder is sent
FADE = 0.4  # share of an edge's correction that the second pixel from the edge gets too
GREY = 127.5  # grey levels per unit of the [-1, 1] scale
BOOK_STEP, SIZE_STEP = 2.0**-4, 2.0**-14  # values of one unit of the stored integers


class Refinement(nn.Module):
    """The codebooks, and the linear models that predict the size of the next codeword from decoded pictures.

    Stored as integers, so that a cast does not change them. `books` int8 (ages, K, D) are codewords in units of the
    cell's size, colours slowest. `first` int32 (3,) and `next` int32 (ages, 5) are weights that predict the log size.
    """

    books: Tensor
    first: Tensor
    next: Tensor

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.cell = config.spatial_compression
        shape = (AGES, config.refinement, config.in_channels * self.cell**2)
        self.register_buffer("books", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("first", torch.zeros(3, dtype=torch.int32))
        self.register_buffer("next", torch.zeros(AGES, 5, dtype=torch.int32))

    def find(self, residual: Tensor, age: Tensor, size: Tensor, wanted: Tensor) -> Tensor:
        """Find the nearest codeword of each cell that is `wanted`, bool (B, h, w); others get any.

        residual (B, h, w, D) grey levels, age int64 and log size (B, h, w) -> int64 (B, h, w).
        """
        values = (residual * torch.exp(-size)[..., None]).flatten(0, 2)
        ages, asked = age.clamp(max=AGES - 1).flatten(), wanted.flatten()
        found = torch.zeros_like(ages)
        for book_age, stored in enumerate(self.books):
            book = stored.to(values.dtype) * BOOK_STEP
            # On a CPU, search only the wanted cells of this age; a captured step on a GPU cannot select rows.
            rows = ((ages == book_age) & asked).nonzero().flatten() if ages.device.type == "cpu" else slice(None)
            nearest = (values[rows] @ book.T - book.square().sum(1) / 2).argmax(1)
            found[rows] = torch.where(ages[rows] == book_age, nearest, found[rows])
        return found.view(age.shape)

    def read(self, word: Tensor, age: Tensor, size: Tensor) -> Tensor:
        """The detail of codewords int64 (B, h, w), given age and log size (B, h, w) -> grey levels (B, h, w, D)."""
        codeword = self.books[age.clamp(max=AGES - 1), word].to(size.dtype) * BOOK_STEP
        return codeword * torch.exp(size)[..., None]

    def follow_size(self, size: Tensor, added: Tensor, kept: Tensor, age: Tensor, shown: Tensor) -> Tensor:
        """Predict the log size after a group: from its detail for a kept cell, from its contrast for a redrawn one.

        size (B, h, w) before, added (B, h, w, D) grey levels, kept bool (B, h, w), age int64 before, shown (B, 3, H, W)
        in [-1, 1] -> (B, h, w).
        """
        following = self.combine(measure_detail(size, added, kept), self.next[age.clamp(max=AGES - 1)])
        return torch.where(kept, following, self.combine(measure_contrast(shown, self.cell), self.first))

    def combine(self, features: Tensor, weights: Tensor) -> Tensor:
        """Linear model: features (B, h, w, n), weights (n + 1,) or (B, h, w, n + 1), the bias last -> (B, h, w)."""
        weights = weights.to(features.dtype) * SIZE_STEP
        return ((features * weights[..., :-1]).sum(-1) + weights[..., -1]).clamp(-MOST_SIZE, MOST_SIZE)


class RefiningTokenizer(ClosedLoopTokenizer):
    """A tokenizer whose tokens may refine. Codes have one more channel: 1 + the codeword of a kept cell, else 0.

    The state has the last decoded frame, the reference. For each cell it has the age, the log size and `held`, the code
    that it was last drawn with; the network keeps reading that code while the cell is kept.
    """

    def _build(self, config: TokenizerConfig) -> None:
        super()._build(config)
        self.refinement = Refinement(config)

    def init_decode_state(self, spec: StateSpec, grid_height: int, grid_width: int) -> State:
        """The decoder's state and the reference; size (S, h, w) float32 or better, age int64 (S, h, w), held
        (S, C, h, w)."""
        grid = (grid_height, grid_width)
        whole = StateSpec(spec.slots, spec.context, torch.int64, spec.device)
        return super().init_decode_state(spec, *grid) | {
            "size": widen(spec).zeros(*grid),
            "age": whole.zeros(*grid),
            "held": spec.zeros(self.config.latent_channels, *grid),
        }

    def show_draft(self, codes: Tensor, state: State, clock: Clock) -> Tensor:
        """As `ClosedLoopTokenizer` says."""
        redrawn, _ = self.mask_codes(codes[:, :, 0], torch.zeros_like(state["age"], dtype=torch.bool), state)
        return super().show_draft(redrawn[:, :, None], state, clock)

    def code_group(
        self, group: Tensor, drawn: Coded, draft: Tensor | None, state: State, clock: Clock
    ) -> tuple[Coded, State]:
        """Refine or redraw each cell, whichever is nearer to `group` (B, 3, G, H, W), judged by the `draft`."""
        if draft is None:
            draft = self.show_draft(drawn.codes, state, clock)
        word, keep = self._choose_words(group, draft, state, clock)
        assert drawn.indices is not None  # a refining tokenizer is discrete
        indices = torch.where(keep[:, None], self.config.content_codes + word[:, None], drawn.indices)
        codes = self._with_words(drawn.codes, torch.where(keep, word + 1, 0)[:, None])
        frames, decoded = self._decode_group(codes[:, :, 0], state, clock)
        return Coded(codes, drawn.latent, indices, drawn.losses, frames if self.training else None), decoded

    @torch.no_grad()
    def _choose_words(self, group: Tensor, draft: Tensor, state: State, clock: Clock) -> tuple[Tensor, Tensor]:
        """Frames (B, 3, G, H, W), true and redrawn -> codewords int64 (B, h, w), and which cells to keep, bool."""
        cell = self.config.spatial_compression
        shown, age, size = (state[name] for name in ("reference", "age", "size"))
        target = group.to(shown.dtype)
        mean = target.mean(2)
        redrawn_error = to_cells((target - draft).square().mean(2), cell).sum(-1) * GREY**2
        moving = to_cells((target - mean[:, :, None]).square().mean(2), cell).sum(-1) * GREY**2 * MOVING_COUNTS
        wanted = clock.started.view(-1, 1, 1) & (moving < redrawn_error)
        residual = to_cells((mean - shown) * GREY, cell)
        word = self.refinement.find(residual, age, size, wanted)
        left = residual - self.refinement.read(word, age, size)
        return word, wanted & (left.square().sum(-1) + moving < redrawn_error)

    def show_group(self, codes: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """codes (B, C + 1, 1, h, w) -> decoded frames (B, 3, G, H, W), edges smoothed, and the new state."""
        frames, state = self._decode_group(codes[:, :, 0], state, clock)
        return smooth_edges(frames, state["size"], state["age"] > 0), state

    def _decode_group(self, codes: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """codes (B, C + 1, h, w) -> frames (B, 3, G, H, W) before `smooth_edges`, and the new state."""
        cell, age, size = self.config.spatial_compression, state["age"], state["size"]
        kept = (codes[:, -1] > 0) & clock.started.view(-1, 1, 1)
        seen, held = self.mask_codes(codes[:, :-1], kept, state)
        frames, decoded = self.redraw(seen[:, :, None], state, clock)
        added = self.refinement.read((codes[:, -1].long() - 1).clamp(min=0), age, size)
        refined = state["reference"] + from_cells(added, cell) / GREY
        mask = kept.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, None]
        frames = torch.where(mask[:, :, None], refined[:, :, None], frames)
        shown = frames[:, :, -1].clamp(-1, 1)
        size = self.refinement.follow_size(size, added, kept, age, shown.detach())
        new = {"reference": shown, "size": size, "age": torch.where(kept, age + 1, 0)}
        return frames, decoded | new | held

    def mask_codes(self, codes: Tensor, kept: Tensor, state: State) -> tuple[Tensor, State]:
        """Give kept cells the code that they were last drawn with, for the network; also returns the new `held`.

        codes (B, C, h, w), kept bool (B, h, w) -> (B, C, h, w).
        """
        held = torch.where(kept[:, None], state["held"], codes.to(state["held"].dtype))
        return held, {"held": held}

    def read_codes(self, tokens: Tensor) -> Tensor:
        """Indices (B, n, h, w) -> codes (B, C + 1, n, h, w), float32, so that codeword numbers are exact."""
        first = self.config.content_codes
        return self._with_words(super().read_codes(tokens.clamp(max=first - 1)), (tokens - first + 1).clamp(min=0))

    def _with_words(self, codes: Tensor, words: Tensor) -> Tensor:
        """Append a channel: codes (B, C, n, h, w), words (B, n, h, w) -> (B, C + 1, n, h, w), float32."""
        return torch.cat([codes.float(), words[:, None].float()], 1)


def measure_contrast(shown: Tensor, cell: int) -> Tensor:
    """Log contrast of each cell and of the 3x3 around it: shown (B, 3, H, W) in [-1, 1] -> (B, h, w, 2)."""
    values = to_cells(shown * GREY, cell).unflatten(-1, (shown.shape[1], -1))
    contrast = values.var(-1, correction=0).mean(-1)
    return torch.stack([torch.log(contrast + 1) / 2, torch.log(average_around(contrast) + 1) / 2], -1)


def measure_detail(size: Tensor, added: Tensor, kept: Tensor) -> Tensor:
    """Features that predict the next size: log size and log RMS of the added detail, of the cell and the 3x3 around it.

    size, kept (B, h, w), added (B, h, w, D) grey levels -> (B, h, w, 4). A redrawn cell has its size as detail.
    """
    detail = torch.where(kept, torch.log(added.square().mean(-1) + 0.05) / 2, size)
    return torch.stack([size, detail, average_around(detail), average_around(size)], -1)


def average_around(x: Tensor) -> Tensor:
    """The mean over the 3x3 cells around each cell, fewer at the edges: (B, h, w) -> (B, h, w)."""
    return F.avg_pool2d(x[:, None], 3, 1, 1, count_include_pad=False)[:, 0]


def smooth_edges(frames: Tensor, size: Tensor, kept: Tensor) -> Tensor:
    """Deblock: smooth the steps at the edges of kept cells, whose codewords are chosen cell by cell.

    frames (B, C, G, H, W) in [-1, 1], log size (B, h, w), kept bool (B, h, w) -> like frames. Only for output: the
    state keeps the edges, which further codewords correct.
    """
    x = frames.flatten(1, 2)
    x = _smooth_columns(x, size, kept)
    return _smooth_columns(x.mT, size.mT, kept.mT).mT.reshape(frames.shape)


def _smooth_columns(x: Tensor, size: Tensor, kept: Tensor) -> Tensor:
    """Smooth the steps from each cell to the next in its row: x (B, N, H, W), size and kept (B, h, w) -> like x.

    A step is the difference across the edge beyond the slopes beside it. A quarter of it is removed on either side,
    limited to half the smaller of the two sizes: a larger step is an edge of the picture.
    """
    cells = x.unflatten(3, (size.shape[2], -1)).clone()
    left, right = cells[:, :, :, :-1], cells[:, :, :, 1:]
    step = right[..., 0] - left[..., -1] - (right[..., 1] - right[..., 0] + left[..., -1] - left[..., -2]) / 2
    limit = torch.exp(torch.minimum(size[..., :-1], size[..., 1:])) / (2 * GREY)
    limit = torch.where(kept[..., :-1] | kept[..., 1:], limit, 0)
    limit = limit.repeat_interleave(x.shape[2] // size.shape[1], 1)[:, None]
    off = torch.minimum(torch.maximum(step / 4, -limit), limit).to(x.dtype)
    left[..., -1] += off
    right[..., 0] -= off
    left[..., -2] += FADE * off
    right[..., 1] -= FADE * off
    return cells.flatten(3)


def to_cells(x: Tensor, cell: int) -> Tensor:
    """(B, C, h * cell, w * cell) -> (B, h, w, C * cell * cell)."""
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // cell, cell, width // cell, cell)
    return permute_rows(parts, 0, 2, 4, 1, 3, 5).flatten(3)


def from_cells(x: Tensor, cell: int) -> Tensor:
    """The inverse of `to_cells`: (B, h, w, C * cell * cell) -> (B, C, h * cell, w * cell)."""
    batch, height, width, _ = x.shape
    parts = x.view(batch, height, width, -1, cell, cell)
    return permute_rows(parts, 0, 3, 1, 4, 2, 5).view(batch, -1, height * cell, width * cell)
