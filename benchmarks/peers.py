"""One small class per pool: how to start it, hand it no-op tasks one by one, and close it.

Every pool uses its defaults but for the number of workers; dashboards and usage reports are off.
Libraries are imported when started, so a peer that is not installed costs nothing and is skipped with its reason.
Where a library has a faster way to collect many results than one `result()` after another, it may use it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import platform
import select
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from benchmarks.tasks import echo, process_id

SECONDS_LIMIT = 60.0  # no wait is longer: a pool that hangs ends the run with an error
WARM_TASKS = 64
P = TypeVar("P", bound="Pool")


class Skipped(Exception):
    """A peer cannot be measured here; the message says why."""


class Pool(ABC):
    """A pool of worker processes under test. `package` is its distribution, None for the standard library."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    optional: ClassVar[bool] = True

    def __init__(self, workers: int) -> None:
        self.workers = workers

    @abstractmethod
    def start(self) -> None:
        """Make the pool; its workers may start later."""

    @abstractmethod
    def run(self, count: int) -> list[int]:
        """Submit `echo(0)`, `echo(1)` and so on one by one, then collect the values in order."""

    @abstractmethod
    def close(self) -> None:
        """End the pool and its processes; what still waits is dropped."""

    @classmethod
    def missing(cls) -> str | None:
        """Return why this pool cannot run here, or None."""
        try:
            cls.version()
        except metadata.PackageNotFoundError:
            return f"{cls.package} is not installed"
        return None

    @classmethod
    def version(cls) -> str:
        """Return the version of the library that is measured."""
        return metadata.version(cls.package) if cls.package else platform.python_version()


class Reacher(Pool):
    """A pool that calls any function with any value."""

    @abstractmethod
    def each(self, function: Callable[[Any], Any], values: list[Any]) -> list[Any]:
        """Make one task of each value, and return what the function makes of them."""

    def share(self, value: Any) -> Any:
        """Return what to hand to several tasks in place of a value that they share."""
        return value


class Submitter(Reacher):
    """A pool that takes single tasks: `submit(function, *arguments)` gives a handle for `collect`."""

    submit: Callable[..., Any]

    def collect(self, handles: list[Any]) -> list[Any]:
        """Wait for the handles and return their values."""
        return [handle.result(timeout=SECONDS_LIMIT) for handle in handles]

    def run(self, count: int) -> list[int]:
        """Submit one by one, then collect."""
        submit = self.submit
        return self.collect([submit(echo, number) for number in range(count)])

    def each(self, function: Callable[[Any], Any], values: list[Any]) -> list[Any]:
        """Submit one by one, then collect."""
        return self.collect([self.submit(function, value) for value in values])

    def trip(self) -> None:
        """Make one round trip: submit one task and wait for its value."""
        if self.collect([self.submit(echo, 7)]) != [7]:
            raise RuntimeError(f"{self.name} lost a value")

    def worker(self) -> int:
        """Return the id of the process that runs the tasks (of one of them)."""
        return int(self.collect([self.submit(process_id)])[0])


class Kumi(Submitter):
    """The subject."""

    name = "kumi"
    package = "kumi"
    optional = False

    def start(self) -> None:
        kumi: Any = importlib.import_module("kumi")
        self._crew = kumi.Controller(kumi.Local(), workers=self.workers)
        self.submit = self._crew.submit
        self._share: Callable[[Any], Any] = kumi.share

    def share(self, value: Any) -> Any:
        return self._share(value)

    def close(self) -> None:
        self._crew.terminate()


class ProcessPool(Submitter):
    """`concurrent.futures.ProcessPoolExecutor`."""

    name = "ProcessPoolExecutor"

    def start(self) -> None:
        futures: Any = importlib.import_module("concurrent.futures")
        self._pool = futures.ProcessPoolExecutor(self.workers)
        self.submit = self._pool.submit

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class MultiprocessingPool(Submitter):
    """`multiprocessing.Pool.apply_async`."""

    name = "multiprocessing.Pool"

    def start(self) -> None:
        self._pool: Any = importlib.import_module("multiprocessing").Pool(self.workers)
        self.submit = lambda function, *arguments: self._pool.apply_async(function, arguments)

    def collect(self, handles: list[Any]) -> list[Any]:
        return [handle.get(SECONDS_LIMIT) for handle in handles]

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class Loky(Submitter):
    """`loky.ProcessPoolExecutor`, which joblib builds on."""

    name = "loky"
    package = "loky"

    def start(self) -> None:
        self._pool: Any = importlib.import_module("loky").ProcessPoolExecutor(self.workers)
        self.submit = self._pool.submit

    def close(self) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)


class Joblib(Reacher):
    """`joblib.Parallel`: it has no call for one task, so `batch_size=1` makes it send them singly."""

    name = "joblib"
    package = "joblib"

    def start(self) -> None:
        self._joblib: Any = importlib.import_module("joblib")
        self._pool = self._joblib.Parallel(self.workers, batch_size=1, pre_dispatch="all", timeout=SECONDS_LIMIT)
        self._pool.__enter__()

    def run(self, count: int) -> list[int]:
        return self.each(echo, list(range(count)))

    def each(self, function: Callable[[Any], Any], values: list[Any]) -> list[Any]:
        task = self._joblib.delayed(function)
        return list(self._pool(task(value) for value in values))

    def close(self) -> None:
        self._pool.__exit__(None, None, None)
        loky: Any = importlib.import_module("joblib.externals.loky")
        loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)


class Pebble(Submitter):
    """`pebble.ProcessPool.schedule`."""

    name = "pebble"
    package = "pebble"

    def start(self) -> None:
        self._pool: Any = importlib.import_module("pebble").ProcessPool(max_workers=self.workers)
        self.submit = lambda function, *arguments: self._pool.schedule(function, args=arguments)

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()


class Dask(Submitter):
    """`dask.distributed.Client.submit` on a local cluster of single-threaded processes."""

    name = "dask.distributed"
    package = "distributed"

    def start(self) -> None:
        distributed: Any = importlib.import_module("distributed")
        self._folder = tempfile.mkdtemp(prefix="dask")
        importlib.import_module("dask").config.set({"temporary-directory": self._folder})
        self._cluster = distributed.LocalCluster(
            n_workers=self.workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        self._client = distributed.Client(self._cluster)
        # pure=False: otherwise a task with the same arguments is answered from memory.
        self.submit = functools.partial(self._client.submit, pure=False)

    def collect(self, handles: list[Any]) -> list[Any]:
        return list(self._client.gather(handles))

    def close(self) -> None:
        self._client.close()
        self._cluster.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Ray(Submitter):
    """`ray.remote` functions on a local node."""

    name = "Ray"
    package = "ray"

    def start(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._ray: Any = importlib.import_module("ray")
        self._folder = tempfile.mkdtemp(prefix="ray")
        self._ray.init(
            address="local",
            num_cpus=self.workers,
            include_dashboard=False,
            object_store_memory=100_000_000,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=self._folder,
        )
        remote = functools.cache(self._ray.remote)
        self.submit = lambda function, *arguments: remote(function).remote(*arguments)

    def collect(self, handles: list[Any]) -> list[Any]:
        return list(self._ray.get(handles, timeout=SECONDS_LIMIT))

    def close(self) -> None:
        self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


class Mirai(Pool):
    """R's mirai, driven by `mirai.R`: a number in, a line `done` out once that many tasks are collected and right."""

    name = "R mirai"
    package = "mirai"

    @classmethod
    def missing(cls) -> str | None:
        if not shutil.which("Rscript"):
            return "Rscript is not on PATH"
        return None if cls.version() else "R has no package mirai"

    @classmethod
    def version(cls) -> str:
        ask = 'if (requireNamespace("mirai", quietly = TRUE)) cat(format(packageVersion("mirai")))'
        command = ["Rscript", "-e", ask]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=SECONDS_LIMIT).stdout

    def start(self) -> None:
        command = ["Rscript", str(Path(__file__).with_name("mirai.R")), str(self.workers)]
        self._host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, count: int) -> list[int]:
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        print(count, file=self._host.stdin, flush=True)
        ready, _, _ = select.select([self._host.stdout], [], [], SECONDS_LIMIT)
        if not ready or self._host.stdout.readline() != "done\n":
            raise RuntimeError("R mirai lost a value or gave no answer")
        return list(range(count))

    def close(self) -> None:
        self._host.communicate(timeout=SECONDS_LIMIT)  # the end of its input ends the script and its daemons


PEERS: tuple[type[Pool], ...] = (ProcessPool, MultiprocessingPool, Loky, Joblib, Pebble, Mirai, Dask, Ray)


@contextmanager
def opened(kind: type[P], workers: int, tasks: int = WARM_TASKS) -> Iterator[P]:
    """Give a pool that has run `tasks` tasks already, and close it afterwards.

    Raises:
        Skipped: A peer did not start. What hinders kumi itself is raised as it is.
    """
    pool = kind(workers)
    with _explained(pool):
        pool.start()
    try:
        with _explained(pool):
            checked(pool, tasks)
        yield pool
    finally:
        pool.close()


def checked(pool: Pool, count: int) -> None:
    """Run `count` tasks and insist on every value."""
    if pool.run(count) != list(range(count)):
        raise RuntimeError(f"{pool.name} gave wrong values")


@contextmanager
def _explained(pool: Pool) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not pool.optional:
            raise
        raise Skipped(f"does not start: {error!r}") from error
