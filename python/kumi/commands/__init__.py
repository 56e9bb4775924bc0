"""The verbs of the command `kumi`: one module each, which enters its arguments by `add` and has `run` for the rest."""
