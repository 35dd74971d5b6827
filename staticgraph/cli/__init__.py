"""The command line: `staticgraph COMMAND MODEL`.

`problems`, `frame`, `options` and `commands` say what there is and import Click alone; each command
is a file of its own with `run(o)`, imported when the command is called.
"""
