"""Judge a tokenizer on videos or pictures: a report in Markdown and JSON with a contact sheet.

    streamtok evaluate clips/ --model nano --baselines --out out/evaluation
    streamtok evaluate DAVIS/ --model runs/mine --lines native
    streamtok evaluate val2017/ --images --inception inception-2015-12-05.pt

PLACES are folders (any tree of videos, DAVIS with its JPEGImages, or pictures) and files. The first 33 frames of each
clip are judged at 256 lines, unless told otherwise. Unreadable files are named and skipped; damaged frames are left out
and counted.
"""

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from streamtok.commands.command import command, flag_type
from streamtok.commands.config_parser import new_config_parser
from streamtok.names import parse_device


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = new_config_parser("evaluate", __doc__)
    add = out.add_argument
    add("places", nargs="+", type=Path, metavar="PLACE", help="folders, videos or pictures")
    add("--model", default="nano", help="preset name, checkpoint folder or Cosmos checkpoint (default nano)")
    add("--lines", type=_lines, default=256, help="short side in pixels, or 'native' (default 256)")
    add("--frames", type=int, default=33, help="frames of each clip at most (default 33)")
    add("--images", action="store_true", default=None, help="every picture is its own clip")
    add("--sequences", dest="images", action="store_false", default=None, help="a folder of pictures is one clip")
    add("--baselines", action="store_true", help="x264 and x265 at equal bits, grid average, the net without rounding")
    add("--drift", type=int, default=0, metavar="GROUPS", help="a bfloat16 receiver after so many groups (slow)")
    add("--no-motion", dest="motion", action="store_false", help="leave out flicker and warping error")
    add("--backbone", type=Path, help="weights for the LPIPS-style distance, as training takes them")
    add("--i3d", type=Path, help="TorchScript I3D, for rFVD")
    add("--inception", type=Path, help="TorchScript Inception, for rFID")
    add("--video", action="store_true", help="also write side_by_side.mp4")
    add("--device", type=flag_type(parse_device), default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("-o", "--out", type=Path, default=Path("out/evaluation"), help="folder of the report (default out/evaluation)")
    add("--json", action="store_true", help="print the report as one line of JSON")
    return out


@command("evaluate")
def main(argv: list[str] | None = None) -> int:
    """Run one evaluation; 0 with a report, 1 when nothing could be judged."""
    arguments = parser().parse_args(argv)
    values, lines = evaluate(arguments, ["streamtok", "evaluate", *(sys.argv[1:] if argv is None else argv)])
    print(json.dumps(values) if arguments.json else "\n".join(lines))
    return 0


def evaluate(arguments: argparse.Namespace, command: list[str]) -> tuple[dict, list[str]]:
    """Load, run and write; the report's values and its main lines."""
    import streamtok
    from streamtok.engine.loading import pick_device
    from streamtok.evaluation.dataset import ClipSet, find_clips
    from streamtok.evaluation.report import Run, summary_lines, write_report
    from streamtok.evaluation.suite import Options, run_suite

    device = str(pick_device(arguments.device))
    tok = streamtok.load(arguments.model).to(device)
    config = tok.config
    files = find_clips(arguments.places, images=arguments.images)
    clips = ClipSet(files, arguments.lines, arguments.frames, config.spatial_compression, config.temporal_compression)
    options = Options(
        steps=arguments.lines is None,
        motion=arguments.motion,
        baselines=arguments.baselines,
        drift_groups=arguments.drift,
        backbone=arguments.backbone,
        i3d=arguments.i3d,
        inception=arguments.inception,
        side_by_side=arguments.out / "side_by_side.mp4" if arguments.video else None,
    )
    result = run_suite(tok, clips, options, _progress(len(files)))
    run = Run(shlex.join(command), tok.fingerprint, device, arguments.lines, arguments.frames)
    paths = write_report(arguments.out, result, run)
    paths += [options.side_by_side] if options.side_by_side else []
    lines = [*summary_lines(result), *(f"skipped {name}: {why}" for name, why in clips.skipped.items())]
    lines += [f"{name}: {count} damaged frames left out" for name, count in clips.damaged.items()]
    return {"run": run.to_dict(), **result.to_dict()}, [*lines, *(f"wrote {path}" for path in paths)]


def _progress(total: int) -> Callable[[str], None]:
    counter = itertools.count(1)
    return lambda name: print(f"[{min(next(counter), total)}/{total}] {name}", file=sys.stderr, flush=True)


def _lines(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isdigit() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of pixels of 8 or more, or 'native'")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
