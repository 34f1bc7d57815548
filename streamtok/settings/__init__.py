"""What commands are told: the kinds of values, what several commands share, and reading it with good errors.

`fields` has the kinds, `shared` what several commands have, `reading` and `yaml_file` read files and say what is wrong.
The settings of a command are in its file in `streamtok/commands/`. Those of `ingest` (`rig`) and `replay` are here, for
nodes are made of them: `IngestNode` by whoever embeds one, `ReplayNode` by `streamtok tokenize` too.
"""
