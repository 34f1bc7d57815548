"""The token coder: token grids to what they carry, exact on every machine (docs/narrow-link.md).

Needs numpy and safetensors alone, so that readers without PyTorch can decode.
"""
