"""The synthetic drive: an endless road scene that needs no camera and no data."""

from streamtok.io.synthetic.drive import SyntheticDrive, parse_synthetic

__all__ = ["SyntheticDrive", "parse_synthetic"]
