"""Code that changes while workers live, and modules that hide."""

import importlib.util
import os
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import kumi
import pytest

HERE = Path(__file__).parent


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A directory of modules on the path."""
    path = list(sys.path)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("kumi_test_")]:
        del sys.modules[name]


def write(directory: Path, name: str, text: str) -> Path:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return file


def run_script(directory: Path, text: str, python: str = sys.executable) -> str:
    file = write(directory, "script.py", text)
    done = subprocess.run([python, str(file)], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def import_of(name: str) -> Any:
    return importlib.import_module(name)


def call_in(name: str, function: str) -> Any:
    """Runs on a worker: imports lazily, as many functions do."""
    return getattr(importlib.import_module(name), function)()


def test_an_edited_module_is_never_run_stale(single: kumi.Controller, project: Path) -> None:
    write(project, "kumi_test_edit.py", "def f(): return 1")
    module = import_of("kumi_test_edit")
    pid = single.submit(os.getpid).result()
    assert single.submit(module.f).result() == 1
    assert single.submit(module.f).result() == 1
    for value in range(2, 6):  # of the same length and, mostly, within one second
        write(project, "kumi_test_edit.py", f"def f(): return {value}")
        assert single.submit(module.f).result() == value
    assert single.submit(os.getpid).result() != pid
    summary = single.summary()
    assert (summary.workers_lost, summary.crash, summary.error) == (0, 0, 0)
    assert summary.workers_left_limit >= 4


def test_an_edit_of_what_a_module_imports_and_of_what_a_task_imports(single: kumi.Controller, project: Path) -> None:
    write(project, "kumi_test_deep.py", "VALUE = 1")
    write(project, "kumi_test_top.py", "import kumi_test_deep\ndef f(): return kumi_test_deep.VALUE")
    assert single.submit(call_in, "kumi_test_top", "f").result() == 1
    write(project, "kumi_test_deep.py", "VALUE = 2")
    assert single.submit(call_in, "kumi_test_top", "f").result() == 2


def test_a_worker_stays_while_nothing_is_edited(single: kumi.Controller, project: Path) -> None:
    file = write(project, "kumi_test_still.py", "def f(): return __import__('os').getpid()")
    os.utime(file, (1, 1))
    os.utime(write(project, "kumi_test_gone.py", "def f(): return __import__('os').getpid()"), (1, 1))
    pids = {single.submit(call_in, name, "f").result() for name in ("kumi_test_still", "kumi_test_gone") * 3}
    (project / "kumi_test_gone.py").unlink()  # what was imported stays good
    write(project, "kumi_test_unused.py", "VALUE = 1")
    pids |= set(single.map(call_in, ["kumi_test_still"] * 50, ["f"] * 50).results())
    assert len(pids) == 1


def test_an_edit_amid_many_tasks_costs_none(crew: kumi.Controller, project: Path) -> None:
    write(project, "kumi_test_many.py", "def f(x): return (1, x)")
    module = import_of("kumi_test_many")
    before = crew.map(module.f, range(500))
    write(project, "kumi_test_many.py", "def f(x): return (2, x)")
    after = crew.map(module.f, range(500))
    assert [x for _, x in before.results()] == list(range(500))
    assert after.results() == [(2, x) for x in range(500)]


def test_a_broken_edit_is_the_tasks_error_until_it_is_mended(single: kumi.Controller, project: Path) -> None:
    write(project, "kumi_test_broken.py", "def f(): return 1")
    module = import_of("kumi_test_broken")
    assert single.submit(module.f).result() == 1
    write(project, "kumi_test_broken.py", "def f(: return 1")
    with pytest.raises(kumi.SerializationError, match="SyntaxError"):
        single.submit(module.f).result()
    write(project, "kumi_test_broken.py", "def f(): return 3")
    assert single.submit(call_in, "kumi_test_broken", "f").result() == 3


def test_a_script_uses_modules_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "beside.py", "def f(x): return x + 1")
    out = run_script(
        tmp_path,
        """
        import functools
        import beside
        import kumi

        @functools.cache
        def cached(x):
            return beside.f(x)

        class Scale:
            factor = 2
            def __call__(self, x):
                return x * self.factor

        print(kumi.submit(beside.f, 1).result(), kumi.submit(cached, 2).result())
        print(kumi.submit(Scale(), 3).result())
        Scale.factor = 5
        print(kumi.submit(Scale(), 3).result(), kumi.submit(lambda: Scale.factor).result())
        Scale.added = lambda self: "added"
        print(kumi.submit(lambda scale: scale.added(), Scale()).result())
        kumi.daemons(0)
        """,
    )
    assert out.splitlines() == ["2 3", "6", "15 5", "added"]


FINDER = """
    import sys
    from importlib.util import spec_from_file_location

    class _EditableFinder:
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name == "kumi_test_project":
                return spec_from_file_location(name, {file!r})

    def install():
        sys.meta_path.append(_EditableFinder)
"""


@pytest.mark.parametrize("way", ["a path", "a finder"])
def test_an_editable_installation(way: str, tmp_path: Path) -> None:
    """As pip makes it of a project, in an environment of its own."""
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    source = write(tmp_path, "source/kumi_test_project/__init__.py", "def f(): return (__name__, __file__, 1)")
    write(site, "all_else.pth", "\n".join(filter(None, sys.path)))
    if way == "a path":
        write(site, "__editable__.kumi_test_project-1.0.pth", str(tmp_path / "source"))
    else:
        name = "__editable___kumi_test_project_1_0_finder"
        write(site, f"{name}.py", FINDER.format(file=str(source)))
        write(site, "__editable__.kumi_test_project-1.0.pth", f"import {name}; {name}.install()")
    out = run_script(
        tmp_path,
        """
        import os, pathlib
        import kumi
        import kumi_test_project as project

        with kumi.Controller(workers=1) as crew:
            assert crew.submit(project.f).result() == ("kumi_test_project", project.__file__, 1)
            assert crew.submit(lambda: __import__("sys").modules[project.__name__].f()).result()[2] == 1
            pathlib.Path(project.__file__).write_text("def f(): return 2")
            print(crew.submit(project.f).result(), project.f()[2])
        """,
        str(tmp_path / "env/bin/python"),
    )
    assert out == "2 1\n"


def test_pytests_importlib_mode(tmp_path: Path) -> None:
    """Modules are imported without being on the path: their functions travel by value."""
    write(tmp_path, "helpers.py", "def double(x): return 2 * x")
    write(
        tmp_path,
        "test_inner.py",
        """
        import os
        import kumi

        FACTOR = 3

        def triple(x): return FACTOR * x

        class Box:
            def __init__(self, x): self.x = x

        def test_it():
            with kumi.Controller(workers=1) as crew:
                assert crew.submit(triple, 2).result() == 6
                assert type(crew.submit(Box, 2).result()) is Box
                assert crew.map(lambda box: triple(box.x), [Box(1), Box(2)]).results() == [3, 6]
                assert crew.submit(os.getpid).result() != os.getpid()
        """,
    )
    arguments = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "test_inner.py",
    ]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_modules_by_value_are_not_imported_by_workers(project: Path) -> None:
    write(
        project,
        "kumi_test_hidden/__init__.py",
        """
        import enum, functools, os
        from kumi_test_hidden import inner
        HOST = os.getpid()

        class Colour(enum.Enum):
            RED = 1

        class Box:
            def __init__(self, x): self.x = x
            @classmethod
            def of(cls, x): return cls(x)
            def double(self): return Box(inner.twice(self.x))

        @functools.cache
        def cached(x): return inner.twice(x)

        def where(box, colour):
            import sys
            seen = [name for name in sys.modules if name.startswith("kumi_test_hidden")]
            return HOST, os.getpid() != HOST, seen, box.double(), colour is Colour.RED
        """,
    )
    write(project, "kumi_test_hidden/inner.py", "def twice(x): return 2 * x")
    module = import_of("kumi_test_hidden")
    arguments = module.Box(3), module.Colour.RED
    for named in (["kumi_test_hidden"], {module}):
        with kumi.Controller(workers=1, modules_by_value=named) as crew:
            host, elsewhere, seen, box, same = crew.submit(module.where, *arguments).result()
            assert (host, elsewhere, seen, same) == (os.getpid(), True, [], True)
            assert type(box) is module.Box
            assert box.x == 6
            assert crew.submit(module.cached, 4).result() == 8
            assert crew.submit(module.Box.of, 5).result().x == 5
            assert crew.submit(lambda: module.inner.twice(6)).result() == 12
            assert crew.map(module.Box.double, [module.Box(1)]).results()[0].x == 2
            assert crew.submit(os.path.join, "a", "b").result() == "a/b"
            crew.everywhere(module.where, *arguments).result()
    with kumi.Controller(workers=1, modules_by_value=["kumi_test_hidden.inner", "kumi_test_hid"]) as crew:
        *_, seen, box, same = crew.submit(module.where, *arguments).result()
        assert "kumi_test_hidden" in seen, "only what stands within a named module is meant"


def test_modules_by_value_serve_a_worker_that_cannot_find_them(tmp_path: Path) -> None:
    """What the host has got from elsewhere than its path needs no naming; see also pytest's importlib mode."""
    write(tmp_path, "far/kumi_test_far.py", "def f(x): return g(x) + 1\ndef g(x): return 10 * x")
    out = run_script(
        tmp_path,
        """
        import pathlib, sys
        import kumi
        sys.path.insert(0, str(pathlib.Path(__file__).parent / "far"))
        import kumi_test_far
        del sys.path[0]
        with kumi.Controller(workers=1) as crew:
            print(crew.submit(kumi_test_far.f, 2).result(), crew.submit(lambda: kumi_test_far.g(3)).result())
        """,
    )
    assert out == "21 30\n"


def test_what_edits_does_not_watch() -> None:
    """Installed modules, kumi itself and modules without a file."""
    from kumi.modules import _file_of

    assert _file_of("pytest", pytest) is None
    assert _file_of("kumi", kumi) is None
    assert _file_of("made", ModuleType("made")) is None
    assert _file_of("sys", sys) is None
