"""Workers on this machine."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kumi.launchers import devices
from kumi.launchers.base import Command, in_words

# Every library that would otherwise start a thread for each core, in each worker.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

# The worker looks for modules where this process does at the moment of the launch. `-c` puts '' in front of the path
# of its own accord, hence the assignment of the whole. The variable goes, lest the tasks' own children inherit it.
BOOTSTRAP = (
    "import os, sys; sys.path[:] = os.environ.pop('KUMI_SYS_PATH').split(os.pathsep); "
    "from kumi.worker import main; main({})"
)


@dataclass(frozen=True, slots=True)
class Local:
    """Launches workers on this machine, in sessions of their own, started fresh and never forked.

    They run with the options `-O`, `-W` and `-X` of this process.

    Args:
        python: The interpreter; None: the one that runs this program. It must be of the same minor version.
        environment: Variables to set for the workers besides those of this process. A library's number of threads
            (OMP_NUM_THREADS and its kin) is set to usable CPUs // workers unless it is set here or in this process,
            for the number of workers with which the controller was opened.
        gpus: The GPUs for the workers of one controller: how many, or a list of indices, counted within those that
            this process sees itself, or of names (UUIDs). Each worker sees its own alone (CUDA_VISIBLE_DEVICES and, for
            ROCm, HIP_VISIBLE_DEVICES), which no other worker has while it lives, or while what it has started does.
            Whether there are such devices is not looked at. None: workers see what this process sees.
        gpus_per_worker: How many each worker has. There are as many workers at most as that allows.

    Example:
        >>> crew = kumi.Controller(kumi.Local(environment={"OMP_NUM_THREADS": "4"}), workers=2)
        >>> crew = kumi.Controller(kumi.Local(gpus=4, gpus_per_worker=2))  # two workers
    """

    python: str | os.PathLike[str] | None = None
    environment: Mapping[str, str] | None = field(default=None, repr=False)  # may be secret
    gpus: int | Sequence[int | str] | None = None
    gpus_per_worker: int = 1

    def __repr__(self) -> str:
        return in_words(self)

    def __post_init__(self) -> None:
        self._check_gpus()
        object.__setattr__(self, "python", interpreter(self.python))
        check_environment(self.environment)

    def _check_gpus(self) -> None:
        each = self.gpus_per_worker
        if isinstance(each, bool) or not isinstance(each, int):
            raise TypeError(f"gpus_per_worker must be a whole number of at least 1, not {each!r}")
        if each < 1:
            raise ValueError(f"gpus_per_worker must be a whole number of at least 1, not {each!r}")
        if self.gpus is None:
            if each != 1:
                raise ValueError(f"gpus_per_worker={each} is for workers with GPUs of their own, which gpus= names")
            return
        found = devices.checked(self.gpus)
        object.__setattr__(self, "gpus", found)
        count = len(devices.named(found))
        if each > count:
            raise ValueError(f"gpus_per_worker must be at most the number of gpus, which is {count}, not {each}")
        twice = sorted({*devices.VARIABLES} & {*(self.environment or ())})
        if twice:
            raise ValueError(f"environment must not set {twice[0]}, which gpus= sets for each worker")

    @property
    def slots(self) -> int | None:
        """How many workers there can be at a time, each with its GPUs; None: any number."""
        return None if self.gpus is None else len(devices.named(devices.checked(self.gpus))) // self.gpus_per_worker

    def command(self, workers: int, /) -> Command:
        """Renders the command that starts one worker.

        Args:
            workers: The most workers there may be at a time; the libraries' threads are divided by it.
        """
        command = render(self.python or sys.executable, dict(self.environment or {}), workers)
        if self.gpus is None:
            return command
        return replace(command, slots=devices.slots(devices.checked(self.gpus), self.gpus_per_worker))


def interpreter(python: object) -> str | None:
    """Checks the path of an interpreter, or None."""
    if isinstance(python, os.PathLike):
        python = os.fspath(python)
    if python is not None and (not isinstance(python, str) or not python):
        raise TypeError(f"python must be the path of an interpreter as a non-empty string, or None: {python!r}")
    return python


def check_environment(variables: object) -> None:
    """Checks the variables that workers are to have besides others; None: there are none."""
    if variables is None:
        return
    if not isinstance(variables, Mapping):
        raise TypeError(f"environment must be a mapping of strings to strings, or None, not {variables!r}")
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"environment must map strings to strings, not {name!r} to {value!r}")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(
                f"environment must map names without '=' to values, both without NUL: {name!r} to {value!r}"
            )


def render(python: str | os.PathLike[str], environment: dict[str, str], workers: int, remote: bool = False) -> Command:
    """How a worker is started on this machine.

    Args:
        python: Its interpreter.
        environment: Variables to set besides those of this process.
        workers: The most workers there may be here at a time.
        remote: The host is on another machine.

    Example:
        >>> render(sys.executable, {}, workers=2).argv
    """
    threads = str(max(1, usable_cpus() // workers))
    variables = dict.fromkeys(THREAD_VARIABLES, threads) | dict(os.environ) | environment
    variables.pop("KUMI_WORKER", None)  # the mark of the worker that this process runs in; the core sets its own
    variables["KUMI_SYS_PATH"] = os.pathsep.join(_search_path())
    # With the fault handler a segmentation fault tells where it happened.
    options = [*_options(), "-X", "faulthandler"]
    return Command([os.fspath(python), *options, "-c", BOOTSTRAP.format(remote)], variables)


def _options() -> list[str]:
    """The options of this interpreter that change what programs do: asserts, warnings, modes."""
    modes = [name if value is True else f"{name}={value}" for name, value in sys._xoptions.items()]
    return ["-O"] * sys.flags.optimize + [f"-W{one}" for one in sys.warnoptions] + [f"-X{one}" for one in modes]


def _search_path() -> list[str]:
    """This process's `sys.path`, with relative entries made absolute: a task may change directory."""
    entries = [entry for entry in sys.path if isinstance(entry, str)]
    try:
        return [os.path.abspath(entry) for entry in entries]  # noqa: PTH100 - pathlib is slow to import
    except OSError:  # the working directory is gone
        return [entry for entry in entries if os.path.isabs(entry)]  # noqa: PTH117


def usable_cpus() -> int:
    """How many CPUs this process may use: as the scheduler's affinity and the control group's quota allow.

    Example:
        >>> kumi.Controller(workers=2 * usable_cpus())
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(root: str = "/sys/fs/cgroup") -> float | None:
    """CPUs that the control group grants, from version 2's file or version 1's pair of files."""
    words = _read(f"{root}/cpu.max") or _read(f"{root}/cpu/cpu.cfs_quota_us") + _read(f"{root}/cpu/cpu.cfs_period_us")
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(file: str) -> list[str]:
    try:
        with open(file, encoding="utf-8") as f:  # noqa: PTH123 - pathlib is slow to import
            return f.read().split()
    except OSError:
        return []
