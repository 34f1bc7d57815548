"""Settings of commands and nodes: field types, groups of fields that commands share, and reading with good errors.

`fields` has the types, `shared` the common groups; `reading` and `yaml_file` read files and report faults. A command's
settings are in its file in `streamtok/commands/`. Those of `ingest` (`rig`) and `replay` are here because others build
nodes from them: programs that embed an `IngestNode`, and `streamtok tokenize`, which runs `ReplayNode`.
"""
