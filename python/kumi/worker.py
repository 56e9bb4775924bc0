"""The worker process: the Rust core deals tasks to it, this file calls them.

Whatever a task does ends as bytes for the host; nothing it raises leaves `Executor.run`. May not know: where the tasks
come from, when the process should leave.
"""

import _signal  # type: ignore[import-not-found]  # `signal` would make enumerations of all its numbers first
import atexit
import os
import sys
from functools import partial
from types import CoroutineType

from kumi import current, serial, tracing, warned
from kumi.errors import SerializationError
from kumi.marked import Streams
from kumi.modules import Edits
from kumi.reset import Reset, kept
from kumi.seeds import Generators

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType
    from typing import Any, NoReturn

    from kumi._core import Memory, Untouched, Worker
    from kumi.reset import Paused
    from kumi.serial import Parcel


_serving: "list[Worker]" = []  # if this process is a worker


def serving() -> "Worker | None":
    """This process's end of the connection to its host; None if it is no worker."""
    return _serving[0] if _serving else None


def task_name() -> str:
    """What the task that this worker runs is called: the user's name for it, or else that of its function."""
    found, worker = current.running(), serving()
    if found is None or worker is None:
        return ""
    try:
        name, function = found[3].get("name"), worker.function()
        return str(name or ("" if function is None else serial.label(function)))
    except Exception:  # it is an object of the user's own that is called
        return ""


class Executor:
    """Runs tasks in this process. What `_core.Worker.serve` calls; `Sequential` uses it as well.

    Args:
        parts: What `run_as_guest` puts back, as `reset.chosen` returns it.
        streams: Those of the process, if what tasks print is to be marked.

    Example:
        >>> executor = Executor()
        >>> function = executor.load(serial.dumps_function(pow))
        >>> succeeded, payload = executor.run(function, serial.dumps_call((2, 10), {}))
        >>> succeeded, serial.loads(payload)
        (True, 1024)
    """

    def __init__(self, parts: int = 0, streams: "Streams | None" = None) -> None:
        self._pid = os.getpid()
        self._streams = streams
        self._edits = Edits()
        self._parts = parts
        self._generators = Generators()

    def is_stale(self) -> bool:
        """Whether this process has imported code that was edited since, and has to make room for another one."""
        return self._edits.found()

    def reset(self, parts: int) -> "Untouched":
        """From now on has this process, which is there for nothing but tasks, put back what they may change.

        Args:
            parts: As `reset.chosen` returns it.
        """
        self._reset = Reset(parts, self._generators)
        return self._reset.begin()

    def put_back(self) -> "Untouched":
        """Puts back what a task has changed."""
        self._reset.put_back()
        return self._reset.begin()

    def keep(self) -> "Untouched":
        """What was done for all tasks to come is not put back."""
        self._reset.keep()
        return self._reset.begin()

    def pause(self) -> "Paused":
        """Puts it back for a task that is run while another one waits."""
        outer = warned.here()
        if outer is not None:
            outer.hide()
        if self._streams is not None:
            self._streams.unmark()
        return self._reset.pause()

    def resume(self, paused: "Paused") -> None:
        """Makes the process what it was before `pause`, for the task that waited."""
        self._reset.resume(paused)
        outer = warned.here()
        if outer is not None:
            outer.show()

    def run_as_guest(self, function: "Any", payload: bytes) -> "tuple[bool, bytes | Parcel, bytes]":
        """Like `run`, in a process that has other things to do than tasks, and must not find it changed.

        Args:
            function: What `load` returned.
            payload: What `serial.dumps_call` returned.

        Returns:
            What `run` does, and what the task has warned of.
        """
        running = current.running()
        with kept(self._parts, self._generators), warned.listening({} if running is None else running[3]) as heard:
            return *self.run(function, payload), heard.dumps()

    def load(self, payload: bytes, memory: "Memory | None" = None) -> "Callable[..., Any]":
        """Unpickles a function. If that fails, returns one that raises the error in each task that calls it.

        Args:
            payload: What `serial.dumps_function` returned, or the core made of it.
            memory: Where the rest of it lies.
        """
        try:
            return serial.loads_function(payload, memory)
        except BaseException as error:  # a module may do anything when it is imported
            return partial(_refuse, "the function", error)

    def run(self, function: "Any", payload: bytes, memory: "Memory | None" = None) -> "tuple[bool, bytes | Parcel]":
        """Calls a function; a coroutine that it returns is run to its end. Never raises.

        Args:
            function: What `load` returned.
            payload: What `serial.dumps_call` returned, or the core made of it.
            memory: Where the rest of it lies.

        Returns:
            True and the pickled result, or False and the pickled error.
        """
        states = None
        try:
            args, kwargs, carried = _load_call(payload, memory)
            stream = None
            if carried is not None:
                current.carry(carried)
                stream = carried.get("stream")
                if "trace" in carried:
                    function = self._traced(function, carried["trace"])
            if stream is not self._generators.stream:
                states = self._generators.set(stream, keep=current.is_interlude())
            value = function(*args, **kwargs)
            if type(value) is CoroutineType:
                value = _run_coroutine(value)
            if os.getpid() != self._pid:
                _leave_at_once(None)
            return True, serial.dumps(value)
        except BaseException as error:
            if os.getpid() != self._pid:
                _leave_at_once(error)
            return False, serial.dumps_error(error)
        finally:
            if states is not None:
                states.put_back()

    def _traced(self, function: "Callable[..., Any]", carrier: "tracing.Carrier") -> "Callable[..., Any]":
        running = current.running()
        if running is None:
            return function
        number, attempt, worker, _ = running
        try:
            return tracing.traced(function, carrier, number, attempt, worker, _run_coroutine)
        except ImportError:  # the host traces, and this machine cannot
            return function

    def prepare(self, function: "Any", payload: bytes, memory: "Memory | None" = None) -> tuple[str, bytes]:
        """Calls a function that every worker calls, for what it leaves behind here. Never raises.

        Args:
            function: What `load` returned.
            payload: What `serial.dumps_call` returned, or the core made of it.
            memory: Where the rest of it lies.

        Returns:
            Two empty ones, or the traceback and the pickled error.
        """
        try:
            args, kwargs, _ = _load_call(payload, memory)
            value = function(*args, **kwargs)
            if type(value) is CoroutineType:
                _run_coroutine(value)
            if os.getpid() != self._pid:
                _leave_at_once(None)
            return "", b""
        except BaseException as error:
            if os.getpid() != self._pid:
                _leave_at_once(error)
            payload = serial.dumps_error(error)
            return serial.traceback_in(payload), payload


def main(remote: bool = False) -> None:
    """Runs this process as a worker: takes what the host passed to it, runs tasks until told to stop, and exits.

    Args:
        remote: The host is on another machine, and an agent here stands for it.
    """
    from kumi._core import Worker

    try:
        worker = Worker()
    except OSError as error:
        sys.exit(f"kumi.worker is started by a controller, which passes it its sockets: {error}")
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _refuse_breakpoint
    serial.follow_host(remote)
    serial.resolve_by(partial(_shared, worker))
    current.may_run = True
    warned.listen()
    _signal.signal(_signal.SIGINT, partial(_interrupted, worker, os.getpid()))
    _serving.append(worker)
    try:
        worker.serve(Executor(streams=Streams(task_name)))
    except OSError as error:  # what the host refuses, or the core does: its text says it all
        _leave_at_once(SystemExit(str(error)))
    except BaseException as error:
        _leave_at_once(error)
    _leave()


def _refuse_breakpoint(*_: object, **__: object) -> "NoReturn":
    """In place of a debugger that would read from nowhere."""
    raise RuntimeError(
        "a worker has no terminal for a debugger: to stop here, run the program with KUMI_SYNC=1 in its environment, "
        "or with kumi.Sequential() as the launcher"
    )


def _shared(worker: "Worker", number: int) -> "Any":
    return worker.shared(number, serial.loads_shared)


def _interrupted(worker: "Worker", pid: int, _signal: int, frame: "FrameType | None") -> None:
    """What SIGINT does: the running task is interrupted, if it is the one that the host means, or else nothing.

    Not Python's own handler, so that `asyncio.run` and a forked child cannot take it for the terminal's.
    """
    if os.getpid() != pid:
        raise KeyboardInterrupt
    if worker.take_interrupt():
        if _is_import(frame):
            worker.leave_soon()
        raise KeyboardInterrupt


def _is_import(frame: "FrameType | None") -> bool:
    """Whether a module may be left half made: it could not be imported again in this process."""
    unpickling = {function.__code__ for function in (Executor.load, _load_call, _shared)}
    while frame is not None:
        code = frame.f_code
        if code in unpickling or code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _load_call(
    payload: bytes, memory: "Memory | None"
) -> "tuple[tuple[Any, ...], dict[str, Any], dict[str, Any] | None]":
    try:
        return serial.loads_call(payload, memory)
    except BaseException as error:
        _refuse("an argument", error)


def _refuse(what: str, error: BaseException, *_: object, **__: object) -> "NoReturn":
    """Raises what happened when something was unpickled, in place of a call."""
    raise SerializationError(f"{what} could not be unpickled on the worker: {serial.describe(error)}") from error


def _run_coroutine(coroutine: "Coroutine[Any, Any, object]") -> object:
    import asyncio

    return asyncio.run(coroutine)


def _leave() -> "NoReturn":
    """Exits as Python does, but without waiting for threads that a task left behind, which may never end."""
    atexit._run_exitfuncs()
    _exit(0)


def _leave_at_once(error: BaseException | None) -> "NoReturn":
    """Exits as Python does after an error, or none, but without waiting for threads and without `atexit`.

    For a child that a task forked and that came back here, where it would answer in its parent's place; and for a
    worker that an error ends, which would wait for threads that a task left behind.
    """
    code = 1
    try:
        code = _exit_code(error)
    finally:
        _exit(code)


def _exit_code(error: BaseException | None) -> int:
    """What Python would exit with, after telling stderr what it would tell."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    if isinstance(error, SystemExit):
        sys.stderr.write(f"{error.code}\n")
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    return int(error is not None)


def _exit(code: int) -> "NoReturn":
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
