"""Lets a world model go on from recorded tokens, and shows it: on the left what was recorded, on the right its sample.

    python examples/world_model.py --save model.pt
    python examples/sample_world_model.py model.pt out/world_model -o sample.mp4

It takes the last stretch of the tokens that begins with a keyframe, gives the model its first grids, and draws the
rest, grid after grid. Each cell of a grid is drawn by itself, given the past. So a model that has learned little turns
what it was given into noise within a second, or keeps it as it is at a low temperature (0.3).
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from world_model import WorldModel

import streamtok
from streamtok.data import TokenDataset
from streamtok.io.picture_writer import open_pictures

PAST = 8  # grids that the model looks back


@torch.inference_mode()
def draw_next(model: WorldModel, tokens: Tensor, temperature: float) -> Tensor:
    """Draw the grid that follows tokens (B, N, h, w) int, digit after digit -> (B, h, w) int64."""
    digits = [digit[:, -PAST:] for digit in model.digits(tokens)]
    known, changed = model.look_back(digits)[:, -1], torch.zeros_like(digits[0][:, -1])
    token, value = torch.zeros_like(changed), 1
    for k, size in enumerate(model.levels):
        before = digits[k][:, -1]
        odds = model.heads[k](known) + model.counted[k][changed, before]
        noise = -torch.empty_like(odds).exponential_().log()  # the largest sum is a draw from these odds (Gumbel)
        now = (odds + temperature * noise).argmax(-1)
        known, changed = known + model.embed[k](now), changed | (now != before)
        token, value = token + value * now, value * size
    return token


def sample(model: WorldModel, given: Tensor, grids: int, temperature: float) -> Tensor:
    """Go on from the tokens `given` (B, N, h, w) for so many grids -> (B, N + grids, h, w) int64."""
    tokens = given.long()
    for _ in range(grids):
        tokens = torch.cat([tokens, draw_next(model, tokens, temperature)[:, None]], 1)
    return tokens


def find_epoch(data: TokenDataset) -> dict:
    """The last window that is a whole stretch from a keyframe on; ValueError if there is none."""
    for index in reversed(range(len(data))):
        item = data[index]
        if item["mask"].all() and item["keyframe"].nonzero().flatten().tolist() == [0]:
            return item
    raise ValueError(f"no stretch of {data.window} grids begins with a keyframe: ask for fewer --grids")


def load_model(path: Path, data: TokenDataset) -> WorldModel:
    """The model that world_model.py has saved; ValueError if it is none, or its tokens are not of the data's kind."""
    try:
        saved = torch.load(path, weights_only=True)
        levels = tuple(saved["levels"])
        model = WorldModel(levels)
        model.load_state_dict(saved["weights"])
    except OSError:
        raise
    except Exception as error:  # torch.load raises what the file's content leads to
        raise ValueError(f"{path} is no model that world_model.py --save has written") from error
    if levels != data.levels:
        raise ValueError(f"{path} knows tokens of levels {levels}, these have {data.levels}: train on these")
    return model.eval()


def write_video(path: Path, clips: Tensor, fps: float) -> None:
    """Write clips (B, 3, T, H, W) in [-1, 1] side by side."""
    frames = ((clips.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(2, 3, 0, 4, 1).flatten(2, 3).numpy()
    writer = open_pictures(path, frames.shape[1:3], fps)
    for number, frame in enumerate(frames):
        writer.write(frame, round(number * 1e9 / fps))
    writer.close()


def main(argv: list[str] | None = None) -> int:
    """Sample and write the video; returns 1 if model and tokens do not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="what world_model.py --save has written")
    parser.add_argument("source", nargs="+", help="recordings, token files or folders")
    parser.add_argument("-o", "--out", type=Path, default=Path("sample.mp4"), help="the video to write")
    parser.add_argument("--given", type=int, default=PAST, help="grids that the model is given")
    parser.add_argument("--grids", type=int, default=16, help="grids that it draws")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.5,
        help="1 draws as predicted, less keeps to what is likely, 0 takes that",
    )
    parser.add_argument("--tokenizer", help="the tokens' tokenizer (default: the one that they name)")
    parser.add_argument("--fps", type=float, default=30, help="frames per second of the video")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    try:
        data = TokenDataset(args.source, window=args.given + args.grids)
        model, recorded = load_model(args.model, data), find_epoch(data)["tokens"][None]
        tok = streamtok.load(args.tokenizer or data.facts["model"] or "", expect=data.identity["tokenizer"])
    except (OSError, ValueError) as error:
        print(f"sample_world_model: {error}", file=sys.stderr)
        return 1
    sampled = sample(model, recorded[:, : args.given], args.grids, args.temperature)
    write_video(args.out, tok.decode(torch.cat([recorded.long(), sampled])), args.fps)
    right = 100 * float((sampled == recorded)[:, args.given :].float().mean())
    print(
        f"{args.out}: {args.given} grids given, {args.grids} drawn; {right:.1f} % of the drawn tokens are as recorded"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
