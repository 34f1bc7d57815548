"""The token coder: lossless entropy coding of token grids, bit-exact on every machine (docs/narrow-link.md).

It needs only numpy and safetensors, so that readers without PyTorch can decode.
"""
