"""A bar that tells how far a map is, by tqdm: in a terminal or in a notebook."""

from typing import Any


class Progress:
    """Made when the first element is counted, so that a map nobody reads shows none.

    Args:
        total: How many elements there are; None: nobody knows.
        shown: Whether there is a bar at all.
    """

    def __init__(self, total: int | None, *, shown: bool) -> None:
        self.shown = shown
        self._total = total
        self._bar: Any = None
        if shown:
            _tqdm()  # complains now rather than in the middle

    def advance(self) -> None:
        """One more element is done."""
        if self.shown:
            if self._bar is None:
                self._bar = _tqdm()(total=self._total)
            self._bar.update()

    def close(self) -> None:
        """Leaves the bar as it is. Doing so again does nothing."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        text = "progress=True draws its bar with tqdm, which is not installed: pip install tqdm"
        raise ModuleNotFoundError(text, name=error.name) from None
    return tqdm
