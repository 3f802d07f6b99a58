"""How the package is built: the order of its rooms, the size of its files, and what it gives to the outside."""

import ast
import functools
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from child_processes import SECONDS

import finetune_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "finetune_jax"
FLOORS = (
    ("errors", "algorithms"),
    ("config", "devices"),
    ("data", "files"),
    ("models", "reports"),
    ("training",),
    ("runs",),
    ("studies",),
    ("commands",),
    ("experiments",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_ENTRIES = 13
MOST_LINES = 400
WITHOUT_JAX = ("algorithms", "config", "config.settings", "config.checks", "config.recipes", "data", "errors")
"""Modules that ``--help`` and the checks of flags import: they start no JAX."""


class Import(NamedTuple):
    """One imported module or name: the importing module, its line, the imported module, the name taken from it."""

    importer: str
    line: int
    module: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}{f'.{self.name}' if self.name else ''}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Syntax trees of all modules of the package and of the experiments, by dotted name."""
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    return {module_name(path): ast.parse(path.read_text()) for path in paths}


def imports_of(importer: str, tree: ast.AST) -> Iterator[Import]:
    """Every import of the project by a module, those within functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "finetune_jax":
                    yield Import(importer, node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}:{node.lineno} imports by a relative path"
            if node.module.split(".")[0] in ("finetune_jax", "experiments"):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    is_module = whole in trees()
                    yield Import(
                        importer,
                        node.lineno,
                        whole if is_module else node.module,
                        None if is_module else alias.name,
                    )


@functools.cache
def all_imports() -> tuple[Import, ...]:
    return tuple(found for name, tree in trees().items() for found in imports_of(name, tree))


def is_private(name: str | None) -> bool:
    return name is not None and name.startswith("_") and not name.startswith("__")


def room_of(module: str) -> str | None:
    """Room of a module; None for the face, which hands on from everywhere."""
    top, *rest = module.split(".")
    if top == "experiments":
        return top
    return rest[0] if rest else None


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two or more nodes that reach each other (Tarjan), in alphabetical order."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return sorted(groups)


# --- rooms ---------------------------------------------------------------------------------------------------


def test_every_room_has_its_floor_and_there_are_few_of_them():
    entries = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert {name.removesuffix(".py") for name in entries} - {"__init__"} <= set(FLOOR_OF)
    assert len(entries) <= MOST_ENTRIES


def test_imports_run_down():
    """Lazy imports count too: a room needs what it imports, whenever it does."""
    upward = []
    for found in all_imports():
        importer, imported = room_of(found.importer), room_of(found.module)
        if importer is None or imported is None or importer == imported:
            continue
        if FLOOR_OF[imported] >= FLOOR_OF[importer]:
            upward.append(str(found))
    assert not upward, "\n".join(upward)


def test_modules_import_each_other_in_no_circle():
    """The face is left out: it hands on names of all rooms on first use.

    To import a module runs the ``__init__`` of its packages too; those of the importer are running already.
    """
    arrows: dict[str, set[str]] = {}
    for found in all_imports():
        parts = found.module.split(".")
        for length in range(2, len(parts) + 1):
            run = ".".join(parts[:length])
            if room_of(found.importer) and not f"{found.importer}.".startswith(f"{run}."):
                arrows.setdefault(found.importer, set()).add(run)
    assert circles(arrows) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"d"}, "e": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize("module", sorted(trees()))
def test_private_names_stay_in_their_module(module):
    """A leading underscore is kept for the module that defines the name."""
    modules = {}  # names in this module that are modules of the project
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name: path for name, path in modules.items() if path in trees()}
    imported = [str(found) for found in all_imports() if found.importer == module and is_private(found.name)]
    reached = [
        f"{modules[node.value.id]}.{node.attr}"
        for node in ast.walk(trees()[module])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in modules and is_private(node.attr)
    ]
    assert not imported + reached, "\n".join(imported + reached)


@pytest.mark.parametrize("folder", ["finetune_jax", "experiments", "tests", "benchmarks"])
def test_no_file_is_long(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    long = {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > MOST_LINES}
    assert long == {}


def test_every_folder_of_tests_mirrors_a_room():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= {*FLOOR_OF, "docs"}


# --- the face ------------------------------------------------------------------------------------------------


def public_names() -> list[str]:
    return sorted([*finetune_jax._PUBLIC, *finetune_jax._FUNCTIONS])


def in_fresh_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=SECONDS
    ).stdout


@functools.cache
def import_in_a_fresh_process() -> dict[str, object]:
    """What ``import finetune_jax`` leaves, and each public name taken after it."""
    code = """
import json, sys
import finetune_jax
before = sorted(sys.modules)
first = sorted(name for name in vars(finetune_jax) if not name.startswith("_"))
directory = dir(finetune_jax)
values = {}
for name in json.loads(sys.argv[1]) if len(sys.argv) > 1 else [n for n in directory if not n.startswith("_")]:
    value = getattr(finetune_jax, name)
    values[name] = getattr(value, "__module__", None) or value.__name__
print(json.dumps([before, first, directory, values]))
"""
    before, first, directory, values = json.loads(in_fresh_process(code))
    return {"modules": before, "first": first, "dir": directory, "values": values}


def test_each_public_name_is_there_in_a_fresh_process():
    paths = finetune_jax._PUBLIC | finetune_jax._FUNCTIONS
    expected = {name: f"finetune_jax.{path}" for name, path in paths.items()}
    assert import_in_a_fresh_process()["values"] == expected


def test_dir_is_the_public_list():
    assert import_in_a_fresh_process()["dir"] == sorted([*public_names(), "__version__"])


def test_importing_the_package_starts_no_jax():
    modules = set(import_in_a_fresh_process()["modules"])
    assert modules.isdisjoint({"jax", "flax", "optax", "numpy", "orbax", "matplotlib"})


def test_what_flags_need_starts_no_jax():
    code = (
        f"import importlib, sys\nfor name in {WITHOUT_JAX}: importlib.import_module('finetune_jax.' + name)\n"
    )
    assert in_fresh_process(code + "print('jax' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("name", ["no_such_name", "weight_variation", "loop", "numpy"])
def test_what_is_not_public_is_no_attribute(name):
    """Rooms become attributes as soon as something imports them; nothing serves them before."""
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
        finetune_jax.__getattr__(name)


def test_rooms_are_served_only_where_they_are_public():
    rooms = (
        {path.stem for path in PACKAGE.iterdir()} - {"__init__", "__pycache__", "py"} - set(public_names())
    )
    for room in rooms:
        with pytest.raises(AttributeError):
            finetune_jax.__getattr__(room)


def test_checkers_see_the_names_that_the_face_serves():
    (block,) = (
        node
        for node in trees()["finetune_jax"].body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "without `as` checkers take the name for private"
            seen[alias.name] = (
                node.module if alias.name in finetune_jax._FUNCTIONS else f"{node.module}.{alias.name}"
            )
    paths = finetune_jax._PUBLIC | finetune_jax._FUNCTIONS
    assert seen == {name: f"finetune_jax.{path}" for name, path in paths.items()}


def test_the_modules_that_users_were_promised_are_public():
    promised = {
        "autolr", "optimizers", "pruning", "retrieval", "spottune", "decathlon", "hyperparameters",
        "domain_similarity", "regularizers", "losses", "schedules", "models",
    }  # fmt: skip
    assert promised <= set(finetune_jax._PUBLIC)


@pytest.mark.parametrize("name", sorted(finetune_jax._PUBLIC))
def test_public_modules_say_what_they_are(name):
    module = importlib.import_module(f"finetune_jax.{finetune_jax._PUBLIC[name]}")
    assert len((module.__doc__ or "").split()) >= 3


# --- the versions it is tested on ----------------------------------------------------------------------------


def test_the_oldest_libraries_that_are_tested_are_the_oldest_allowed():
    required = (ROOT / "requirements.txt").read_text().splitlines()
    for line in (ROOT / ".ci" / "oldest.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if version and name != "jaxlib":
            assert any(f"{requirement},".startswith(f"{name}>={version},") for requirement in required), line


RIDDLES = ("found", "own", "said", "told")
"""Names of what happened to a thing, which could be any; see CONTRIBUTING.md."""


def names_bound_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines and names of the variables, arguments, functions and classes of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def test_names_say_what_a_thing_is() -> None:
    riddles = [
        f"{module}:{line} {name}"
        for module, tree in trees().items()
        for line, name in names_bound_in(tree)
        if name.strip("_") in RIDDLES
    ]
    assert riddles == []
