"""The ways to hand in work: the same for a controller, a group, a view of one with options, and the module `kumi`."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

from kumi import current, serial, tracing
from kumi._core import Group
from kumi.feed import Feed
from kumi.functions import Prepared
from kumi.gathered import Gathered
from kumi.maps import Map, OnError, elements_ahead, have_lengths
from kumi.options import Chooser, Options, chosen
from kumi.seeds import Seeds, Stream
from kumi.task import Task
from kumi.tracing import MapSpan

P = ParamSpec("P")
T = TypeVar("T")


class Queue(Protocol):
    """What a controller does for the ways in."""

    workers: int
    _seeds: Seeds | None

    def _find(self, name: str) -> "Queue":
        """The open controller of that name."""

    def _prepare(self, fn: Callable[..., Any]) -> Prepared:
        """Opens the controller and gives it the function."""

    def _enter(
        self,
        function: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        stream: Stream | None,
        *,
        wait: bool,
        group: Group | None = None,
    ) -> Task[Any] | None:
        """Submits one call. None if there was no room and it may not wait, or the group takes no more."""

    def _new_group(self) -> Group:
        """For the elements of a map."""

    def _feeds(self, feed: Feed[Any]) -> bool:
        """Whether a thread may go on with the input of a map. It is told when no more tasks are taken."""

    async def _enter_when_room(
        self,
        function: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        stream: Stream | None,
    ) -> Task[Any]:
        """Submits one call; waits for room without blocking the event loop."""

    def _everywhere(
        self, function: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> Task[Any]:
        """Submits one call that every worker makes."""

    def _push(
        self,
        function: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        stream: Stream | None,
    ) -> Task[Any]:
        """Submits one call whose record the controller keeps."""


class Submitter(ABC):
    """The ways to hand in work. Every argument after the function belongs to the function."""

    _options = Options()

    @abstractmethod
    def _target(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Queue:
        """Where this call goes. For a map the arguments are its iterables."""

    @abstractmethod
    def _find(self, name: str) -> Queue:
        """The controller that is chosen by this name."""

    def _targets(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Sequence[Queue]:
        """Where a call goes that every worker makes."""
        return (self._target(fn, args, kwargs),)

    def _base(self) -> "Submitter":
        """Without options."""
        return self

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Runs `fn(*args, **kwargs)` on a worker. While the queue is full it waits for room, without holding the GIL.

        Raises:
            SerializationError: If the function or an argument cannot be pickled; nothing was submitted then.
            MemoryError: If their arrays are larger than the memory that may be used.
            ControllerClosed: If the controller has ended.
            QueueFull: If the queue is full on the thread of a running event loop, which must not wait: use `run`.

        Example:
            >>> crew.submit(pow, 2, 10).result()
            1024
        """
        crew = self._target(fn, args, kwargs)
        function = crew._prepare(fn)
        # There is a task, for this waits; `cast` is a call.
        return crew._enter(function, args, kwargs, self._options, self._stream(crew), wait=True)  # type: ignore[return-value]

    def everywhere(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Task[None] | Gathered:
        """Has every worker call `fn(*args, **kwargs)` before its next task: those that are there and those to come.

        The task is done, with None, when the workers that are there have made the call; at once if there are none. If
        it fails on one, the error is the task's, and workers to come do not make the call; nor if it is cancelled. If
        it fails on a worker that comes later, the launch of that worker has failed. Workers make all calls in their
        order. Only what a task itself has submitted and waits for may still run before. What the call leaves behind,
        in `kumi.state` or in the process, is there for all tasks to come.

        Every call and its arguments are kept until the controller ends, and workers that come later make all of them
        within `seconds_launch`: not a thing to do thousands of times.

        Of a group: every worker of every controller, and what is returned is a Future that is done when all of them
        are, and can be awaited; its error is that of the first that failed.

        Raises:
            SerializationError: If the function or an argument cannot be pickled.
            ControllerClosed: If the controller has ended.
            ControllerError: In a task.
            QueueFull: As `submit` does.

        Example:
            >>> crew.everywhere(setattr, kumi.state, "factor", 3).result()
        """
        prepared = [(crew, crew._prepare(fn)) for crew in self._targets(fn, args, kwargs)]
        tasks = [crew._everywhere(function, args, kwargs, self._options) for crew, function in prepared]
        return tasks[0] if len(tasks) == 1 else Gathered(tasks)

    def try_submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T] | None:
        """Like `submit`, but returns None at once when the queue is full.

        Example:
            >>> task = crew.try_submit(pow, 2, 10)
        """
        crew = self._target(fn, args, kwargs)
        function = crew._prepare(fn)
        seeds = self._numbering(crew)
        stream = None if seeds is None else seeds.next()
        task = crew._enter(function, args, kwargs, self._options, stream, wait=False)
        if task is None and seeds is not None:
            seeds.give_back(stream)
        return task

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Waits for room, submits, waits for the task and returns its result, without blocking the event loop.

        Cancelling the coroutine cancels the task. Raises what `submit` and `Task.result` raise.

        Example:
            >>> value = await crew.run(pow, 2, 10)
        """
        crew = self._target(fn, args, kwargs)
        function, stream = crew._prepare(fn), self._stream(crew)
        task: Task[T] | None = crew._enter(function, args, kwargs, self._options, stream, wait=False)
        if task is None:
            task = await crew._enter_when_room(function, args, kwargs, self._options, stream)
        return await task

    def push(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Like `submit`, and the controller keeps the task's record for `pop`, `collect` and `records`.

        Raises:
            ControllerError: If the name given by `with_options` is held by a task whose record was not popped yet.

        Example:
            >>> task = crew.with_options(name="first").push(pow, 2, 10)
            >>> crew.wait()
            True
            >>> crew.pop().result
            1024
        """
        crew = self._target(fn, args, kwargs)
        return crew._push(crew._prepare(fn), args, kwargs, self._options, self._stream(crew))

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        buffersize: int | None = None,
        timeout: float | None = None,
        chunksize: int = 1,  # noqa: ARG002 - Executors have it; short tasks are sent together anyway
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Map[T]:
        """Calls `fn` for each element, or each tuple of elements, and returns an iterator over the values in order.

        The function is pickled once, with all it holds. Input whose length is known is submitted whole: what the queue
        has no room for, or comes after the first 100,000 elements, by a thread, whether or not somebody reads. It stops
        1,000,000 elements ahead of the reader. Other input is taken as the reader advances, by the reader's thread.

        Args:
            fn: What to call.
            iterables: Its arguments; the shortest ends the map. If one is asynchronous, read the map with `async for`.
            buffersize: How many elements to submit ahead of the reader; None: all that has a length, else 32 for each
                worker.
            timeout: Seconds from now within which the last value must be read; None: no limit.
            chunksize: Ignored.
            on_error: "raise": the first failure, whichever element it is, ends the reading and cancels the rest;
                "return": the error stands in the place of the value.
            progress: Whether to show a bar, which needs tqdm.

        Raises:
            SerializationError: If the function, or an element submitted at once, cannot be pickled.

        Example:
            >>> crew.map(pow, [2, 3], [5, 2]).results()
            [32, 9]
        """
        crew, options = self._target(fn, iterables, {}), self._options
        ahead = elements_ahead(iterables, buffersize, crew.workers)
        function, root, group = crew._prepare(fn), self._stream(crew), crew._new_group()
        span = MapSpan(serial.label(function.call), options.name) if tracing.is_on() else None
        options = options if span is None else options.within(span.carrier)

        def submit(element: tuple[Any, ...], number: int, wait: bool) -> Task[T] | None:
            stream = None if root is None else (*root, number)
            return crew._enter(function, element, {}, options.numbered(number), stream, wait=wait, group=group)

        return Map(
            submit,
            group,
            iterables,
            ahead,
            goes_on=crew._feeds if buffersize is None and have_lengths(iterables) else None,
            timeout=timeout,
            on_error=on_error,
            progress=progress,
            ended=None if span is None else span.end,
        )

    def with_options(
        self,
        *,
        name: str | None = None,
        controller: str | Chooser | None = None,
        seed: int | None = None,
        seconds_run: float | None = None,
        seconds_total: float | None = None,
        crashes_max: int | Mapping[str, int | None] | None = None,
        once: bool | None = None,
    ) -> "View":
        """The same controller, with settings for the tasks that are submitted through what is returned.

        Args:
            name: A label for the tasks; None: as before.
            controller: The name of another open controller that the tasks go to, or of one of the group's; None: as
                before. Or what chooses it for each task: called with the function, the tuple of its arguments and the
                dict of those by name, it returns the name. A map goes to one controller, whole: for it the tuple is
                that of the iterables.
            seed: Each task submitted through what is returned finds `random`, `numpy.random` and `kumi.rng()` set for a
                stream of its own, which the seed and the order of the submits and maps decide, and nothing else: not
                the number of workers, nor which is faster. None: as before.
            seconds_run: A task that has run for so long is stopped, as by `cancel`, and raises TaskTimeout. Waiting for
                tasks that it has submitted counts. None: as before.
            seconds_total: The same from its submission on, whether it runs or waits. None: as before.
            crashes_max: How often a task may crash its worker and be run again, or how often by each cause: see
                `Controller`. None: as before.
            once: Whether a task is never run again once it may have begun: if its worker dies, it ends with CrashError.
                None: as before.

        Example:
            >>> crew.with_options(name="fit", crashes_max=0).submit(pow, 2, 10).name
            'fit'
        """
        options = Options(
            name=name,
            controller=controller,
            seed=seed,
            seconds_run=seconds_run,
            seconds_total=seconds_total,
            crashes_max=crashes_max,
            once=once,
        )
        return View(self._base(), options.over(self._options))

    def _numbering(self, crew: Queue) -> Seeds | None:
        """Where the next task's stream comes from: what was said here, else the task that runs here, else the queue."""
        return self._options.seeds or (current.seeds() if current.may_run else None) or crew._seeds

    def _stream(self, crew: Queue) -> Stream | None:
        seeds = self._numbering(crew)
        return None if seeds is None else seeds.next()


class View(Submitter):
    """A controller seen through options: what `with_options` returns."""

    def __init__(self, base: Submitter, options: Options) -> None:
        self._seen = base
        self._options = options

    def __repr__(self) -> str:
        return f"<View {self._options}>"

    def _target(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Queue:
        controller = self._options.controller
        if controller is None:
            return self._seen._target(fn, args, kwargs)
        return self._seen._find(controller if isinstance(controller, str) else chosen(controller, fn, args, kwargs))

    def _find(self, name: str) -> Queue:
        return self._seen._find(name)

    def _targets(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Sequence[Queue]:
        if self._options.controller is None:
            return self._seen._targets(fn, args, kwargs)
        return (self._target(fn, args, kwargs),)

    def _base(self) -> Submitter:
        return self._seen
