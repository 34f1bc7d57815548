"""Exports tokens as WebDataset shards: tar files of windows, which any tar reader opens."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from streamtok.tokens.dataset import TokenDataset
from streamtok.tokens.options import ExportOptions
from streamtok.tokens.tracks import TokenSource


def export_webdataset(source: TokenSource, out: Path, options: ExportOptions) -> dict[str, int]:
    """Write shards `tokens-000000.tar`, ... of windows: KEY.tokens.npy (N, h, w), KEY.mask.npy (N,) bool, KEY.json.

    The JSON has stream, file (with its folder), and capture_ns, time_ns, epoch and keyframe of each grid. Beside the
    shards, `dataset.json` names the tokenizer. Windows are those of `TokenDataset`, cut at every gap. The same files
    give the same bytes. Returns counts.
    """
    data = TokenDataset(source, options.window, streams=options.streams, gaps="cut")
    shards = range(0, len(data), options.shard_samples)
    with tqdm(None, "webdataset", len(data), unit="window", disable=options.quiet or None) as bar:
        for number, first in enumerate(shards):
            with tarfile.open(out / f"tokens-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for index in range(first, min(first + options.shard_samples, len(data))):
                    _add_sample(tar, f"{index:09d}", data[index])
                    bar.update()
    facts = {"format": "webdataset", "window": options.window, "samples": len(data), "shards": len(shards)}
    (out / "dataset.json").write_text(json.dumps(facts | data.facts, indent=2) + "\n")
    return {"samples": len(data), "shards": len(shards)}


def _add_sample(tar: tarfile.TarFile, key: str, item: dict[str, Any]) -> None:
    kind = np.float16 if item["tokens"].is_floating_point() else np.int32
    facts = {name: item[name].tolist() for name in ("capture_ns", "time_ns", "epoch", "keyframe")}
    facts |= {"stream": item["stream"], "file": "/".join(Path(item["file"]).absolute().parts[-2:])}
    files = {}
    for name, array in (("tokens", item["tokens"].numpy().astype(kind)), ("mask", item["mask"].numpy())):
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[f"{key}.{name}.npy"] = buffer.getvalue()
    for name, data in (files | {f"{key}.json": json.dumps(facts).encode()}).items():
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
