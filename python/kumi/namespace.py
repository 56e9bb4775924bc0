"""What a worker keeps from task to task: a place for what `setup` and `everywhere` make there."""

from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class State(SimpleNamespace):
    """Attributes of this process, for the functions that run in it.

    Pickled it is only its name: a function that refers to it finds that of the process it runs in.

    Example:
        >>> state.model = "loaded"
        >>> state.model
        'loaded'
    """

    def __getattr__(self, name: str) -> "NoReturn":
        text = f"kumi.state has no {name!r} in this process: `setup=` of the controller, or `everywhere`, sets it"
        raise AttributeError(text, name=name, obj=self)

    def __reduce__(self) -> str:
        return "state"


state = State()
