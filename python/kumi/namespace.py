"""What a worker keeps from task to task: a place for what `setup` and `everywhere` make there."""

from types import SimpleNamespace


class State(SimpleNamespace):
    """Attributes of this process, for the functions that run in it.

    Pickled it is only its name: a function that refers to it finds that of the process it runs in.

    Example:
        >>> state.model = "loaded"
        >>> state.model
        'loaded'
    """

    def __reduce__(self) -> str:
        return "state"


state = State()
