"""The entry point of `streamtok COMMAND ...`, which hands the arguments to `streamtok/commands/COMMAND.py`.

Commands are imported only when they run, so `streamtok --help` needs nothing but the standard library.
"""

import difflib
import importlib
import sys
from typing import NoReturn

from streamtok.node.process import end_process, keep_standard_streams

COMMANDS = {
    "demo": "the whole pipeline on this machine: a drive, ingest, subscriber, decoder, a side-by-side video",
    "ingest": "cameras, files or a synthetic drive to a token stream over ZeroMQ",
    "subscribe": "print or forward a token stream",
    "record": "token (and camera) streams to MCAP",
    "replay": "recorded drives through the same core as live; --verify compares the tokens",
    "encode": "a video or image file to a token file",
    "decode": "a token file or a live stream back to pictures",
    "view": "a page in the browser: streams as they come, or a recording",
    "reconstruct": "many videos or images through a tokenizer and back, with a report",
    "tokenize": "many drives to token files: parallel, resumable",
    "export": "token recordings to WebDataset, Parquet or LeRobot v3",
    "export-model": "one step of a model for ONNX Runtime, C++, browsers, TensorRT",
    "info": "what a recording holds",
    "repair": "recover a recording that was cut off",
    "repack": "tokens of a file coded to what they carry, or plain again",
    "models": "the presets: compression, codebook, rates, parameters, FLOPs, state",
    "doctor": "what this machine can do and what is missing; what a source is",
    "keys": "CURVE keys for secure streams",
    "bench": "rates, latencies and ratios on this machine",
    "soak": "a node under faults for a while: does it keep its promises?",
    "train": "train a tokenizer",
    "train-coder": "train the token coder of a tokenizer",
    "finetune": "fine-tune a tokenizer on your own videos, in one command",
    "fit-refinement": "give a trained network tokens that sharpen what stands still",
    "evaluate": "judge a tokenizer on a folder of videos or images",
}
UNLISTED = ("exactness", "ship")  # for work on streamtok itself


def usage() -> str:
    """The text of `streamtok --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return (
        "usage: streamtok COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\nstreamtok COMMAND --help shows an example of each."
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status (2 for a usage error)."""
    if argv is None:
        keep_standard_streams()
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    command, *rest = arguments
    if command == "--version":
        from importlib.metadata import version

        print(version("streamtok"))
        return 0
    if command not in (*COMMANDS, *UNLISTED):
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see streamtok --help"
        print(f"streamtok: unknown command {command!r}; {hint}", file=sys.stderr)
        return 2
    try:
        status = importlib.import_module(f"streamtok.commands.{command.replace('-', '_')}").main(rest)
    except KeyboardInterrupt:  # while the command is imported; a running one handles it
        status = 130
    return status if argv is not None else end_process(status)


def run_script(command: str) -> NoReturn:
    """Run `streamtok COMMAND` with the arguments of this process, then exit."""
    sys.argv.insert(1, command)
    sys.exit(main())


if __name__ == "__main__":
    sys.exit(main())
