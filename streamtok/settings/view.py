"""The settings of `streamtok view`: what to show, and where the page is served."""

from typing import Annotated

from pydantic import Field, model_validator

from streamtok.names import parse_endpoint
from streamtok.settings.fields import Device, Flag, Folder, Model, Port, Switch, Texts, option
from streamtok.settings.shared import NodeSettings


class ViewSettings(NodeSettings):
    """What to show, and where the page is served."""

    inputs: Annotated[Texts, Field(min_length=1), Flag("INPUT", positional=True)] = Field(
        description="endpoints of nodes, or one recording"
    )
    port: Port = option(8088, "of the page; 0 for a free one")
    address: Annotated[str, Flag("ADDRESS")] = option("127.0.0.1", "where the page is served")
    token: Annotated[str, Field(min_length=8), Flag("TOKEN")] | None = option(
        None, "what a browser must know (default: a new one, beyond loopback)"
    )
    to: Annotated[str, Field(pattern=r"^(page|rerun|foxglove|.+\.rrd)$"), Flag("VIEWER")] = option(
        "page", "page, foxglove (serves ws://127.0.0.1:8765), rerun (one that runs here), or FILE.rrd"
    )
    open: Switch = option(False, "open the page in this machine's browser")
    model: Model | None = option(None, "preset or checkpoint (default: the one that a stream names)")
    device: Device = option("auto", "where pictures are decoded: auto, cpu, cuda or cuda:N")
    browser: Folder | None = option(
        None, "let pages decode: a folder with onnxruntime-web's files and exported steps (docs/export.md)"
    )
    curve: Folder | None = option(None, "this reader's keys, from `streamtok keys generate`")

    @property
    def live(self) -> bool:
        """Whether nodes are shown, not a recording."""
        return any(text.startswith(("tcp://", "ipc://", "inproc://")) for text in self.inputs)

    @model_validator(mode="after")
    def check_together(self) -> "ViewSettings":
        """ValueError for flags that contradict each other."""
        if self.live:
            for text in self.inputs:
                parse_endpoint(text)
        elif self.to != "page":
            raise ValueError(f"to {self.to!r}: for nodes; a recording opens in Foxglove as it is")
        elif len(self.inputs) > 1 or self.curve is not None:
            raise ValueError(f"{self.inputs[0]!r} is a recording: give one, and no curve; nodes are tcp://HOST:PORT")
        return self
