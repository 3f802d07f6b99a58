"""Every public function has an example in its docstring, and each example runs as it is printed."""

import ast
import doctest
import importlib
import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bare_runs import bare_runs

import finetune_jax

PARSER = doctest.DocTestParser()

__all__ = ["bare_runs"]


def handed_on(module: types.ModuleType) -> set[str]:
    """Names that a module imports for others: those in ``__all__``, or imported ``as`` themselves."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    tree = ast.parse(Path(inspect.getsourcefile(module)).read_text())
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return {alias.asname for node in imports for alias in node.names if alias.asname == alias.name}


def public_functions(name: str) -> Iterator[tuple[str, Callable[..., object]]]:
    """Functions of a public module, its own and those it hands on, as ``(name on the face, function)``."""
    module = importlib.import_module(f"finetune_jax.{finetune_jax._PUBLIC[name]}")
    others = handed_on(module)
    for key, value in vars(module).items():
        # Compiled functions are no functions to `inspect`, and wrap one.
        function = inspect.unwrap(value) if callable(value) else value
        if inspect.isfunction(function) and not key.startswith("_"):
            its_own = function.__module__ == module.__name__ and not hasattr(module, "__all__")
            if its_own or key in others:
                yield f"{name}.{key}", function


FUNCTIONS = dict(pair for name in finetune_jax._PUBLIC for pair in public_functions(name))
FUNCTIONS |= {name: getattr(finetune_jax, name) for name in finetune_jax._FUNCTIONS}
MODULES = {
    name: importlib.import_module(f"finetune_jax.{path}") for name, path in finetune_jax._PUBLIC.items()
}
WITH_EXAMPLES = {
    name: thing for name, thing in {**MODULES, **FUNCTIONS}.items() if ">>>" in (inspect.getdoc(thing) or "")
}


def test_every_public_function_has_an_example():
    without = sorted(set(FUNCTIONS) - set(WITH_EXAMPLES))
    assert not without, "no example (>>>) in the docstring of " + ", ".join(without)


def test_public_functions_are_found_whether_defined_handed_on_or_compiled():
    assert {"autolr.update", "autolr.weight_variation", "optimizers.create", "models.create"} <= set(
        FUNCTIONS
    )
    assert "losses.normalise" not in FUNCTIONS


@pytest.mark.parametrize("name", sorted(WITH_EXAMPLES))
def test_an_example_gives_what_it_prints(name):
    """It imports all that it uses: nothing of the module is there when it starts."""
    example = PARSER.get_doctest(inspect.getdoc(WITH_EXAMPLES[name]), {}, name, None, None)
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert result.attempted
    assert not result.failed, "".join(report)
