"""The error for whatever does not follow the protocol."""


class WireError(ValueError):
    """A message that does not follow the protocol; `kind` is the part at fault, one of a fixed few words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
