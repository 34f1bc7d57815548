"""Downloads and uploads checkpoints of the Hugging Face Hub, by "org/name[@revision]"; its local cache comes first."""

import re
import tempfile
from pathlib import Path

from streamtok.checkpoint.diffusers import WEIGHTS
from streamtok.checkpoint.folder import save
from streamtok.checkpoint.published_files import PUBLISHED_FILES, STATISTICS
from streamtok.extras import needs_extra
from streamtok.model import Tokenizer

REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
# A repository may hold gigabytes of other models too. In these patterns * matches across folders.
FILES = ["config.json", "model.safetensors", "coder.safetensors", *PUBLISHED_FILES, *STATISTICS.values()]
FILES += [f"{WEIGHTS}*", "model_index.json", "vae/*"]
CARD = """---
library_name: streamtok
tags: [video-tokenizer, cosmos-tokenizer]
---
# {name}

A video tokenizer for streamtok: `{config}`, {ratio:.0f} times fewer bits than RGB.
Fingerprint: `{fingerprint}`.

```python
import streamtok

tok = streamtok.load("{name}")
```
"""


def fetch_checkpoint(name: str) -> Path:
    """The local folder of a hub repository, from the hub's cache or downloaded.

    Raises ValueError if the hub has no such repository or denies access, OSError if the hub cannot be reached,
    ImportError if the extra is missing.
    """
    match = REPOSITORY.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no repository, expected org/name or org/name@revision")
    with needs_extra(f"there is no folder {name!r} here; loading it from the Hugging Face Hub", "hub"):
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    repository, revision = match["name"], match["revision"]
    absent = f"there is no folder {name!r} here, and the hub's cache has no repository {name}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=FILES, local_files_only=True))
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise ValueError(f"{absent}; HF_HUB_OFFLINE is set, so it was not asked for") from error
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=FILES))
    except LocalEntryNotFoundError as error:
        raise OSError(f"{absent}; the hub cannot be reached: {error}") from error
    except HfHubHTTPError as error:
        raise ValueError(f"{absent}; the hub says: {error}") from error


def push(tokenizer: Tokenizer, name: str, *, private: bool = True) -> str:
    """Upload a tokenizer with a model card to "org/name" on the hub, created if missing; returns its URL.

    It uses the account of `hf auth login`.
    """
    with needs_extra("pushing to the Hugging Face Hub", "hub"):
        from huggingface_hub import HfApi
    if not re.fullmatch(REPOSITORY, name) or "@" in name:
        raise ValueError(f"{name!r} is no repository, expected org/name")
    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save(tokenizer, folder)
        facts = {"config": tokenizer.config.name, "ratio": tokenizer.config.compression_ratio}
        card = CARD.format(name=name, fingerprint=tokenizer.fingerprint, **facts)
        Path(folder, "README.md").write_text(card, encoding="utf-8")
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"streamtok {tokenizer.fingerprint}")
    return str(url)
