"""The token stream over ZeroMQ, version 1 (docs/wire-protocol.md): messages, publisher, subscriber, control, security.

Needs `pyzmq` and `msgspec`; parts are imported from their modules, such as `streamtok.wire.publisher`.
"""
