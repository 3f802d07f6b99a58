"""Which names in a pickle are known, which are put aside, and which are refused."""

from finetune_jax.errors import readable
from finetune_jax.files.weight_files.pickle_values import (
    FUNCTIONS,
    STORAGE_TYPES,
    UNTYPED_DTYPES,
    Global,
    Unread,
)
from finetune_jax.files.weight_files.refusals import BadFile

_LONGEST = 1000  # characters; names are short, and a pickle may repeat one at little cost

# Nothing in a pickle is ever looked up or called here. These names are refused nevertheless, because no honest
# file has them: they are there to run something where the file is loaded in the usual way.
_RUNNING_MODULES = frozenset(
    [
        "__main__",
        "_pickle",
        "_posixsubprocess",
        "asyncio",
        "bdb",
        "cProfile",
        "cloudpickle",
        "code",
        "codeop",
        "commands",
        "ctypes",
        "dill",
        "doctest",
        "imp",
        "importlib",
        "inspect",
        "joblib",
        "marshal",
        "multiprocessing",
        "nt",
        "operator",
        "os",
        "pdb",
        "pickle",
        "pip",
        "pkgutil",
        "platform",
        "posix",
        "profile",
        "pty",
        "pydoc",
        "requests",
        "runpy",
        "shelve",
        "shutil",
        "signal",
        "site",
        "socket",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "timeit",
        "trace",
        "types",
        "urllib",
        "venv",
        "webbrowser",
    ]
)
_TYPES_OF_PYTHON = frozenset(
    [
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "set",
        "slice",
        "str",
        "tuple",
        "xrange",
        "long",
        "unicode",
        "Ellipsis",
        "NotImplemented",
    ]
)
_MODULES_OF_PYTHON = ("builtins", "__builtin__")
_HARMLESS_IN_RUNNING_MODULES = frozenset({"types SimpleNamespace", "signal Signals", "inspect Parameter"})
_RUNNING_IN_TORCH = (
    "torch load",
    "torch.hub ",
    "torch.jit",
    "torch.serialization ",
    "torch.package",
    "torch.utils.",
)
_PRIVATE_BUT_HARMLESS = frozenset({"copyreg _reconstructor", "copy_reg _reconstructor", "copyreg __newobj__"})


def global_named(name: object) -> Global | Unread:
    """The global ``"module name"``: one that weights are made of, or one that is put aside.

    Raises:
        BadFile: it is there to run something, or is no name.
    """
    if not isinstance(name, str) or len(name) > _LONGEST:
        raise ValueError("a global without a name")
    if name in FUNCTIONS or name in STORAGE_TYPES or name in UNTYPED_DTYPES:
        return Global(name)
    if not _is_harmless(name):
        raise BadFile(
            f"asks for the Python object {readable(name.replace(' ', '.', 1), 100)}, which no weights need; it is "
            "refused and nothing was run: if the file holds a whole pickled model, save its state_dict() alone where "
            "it was made"
        )
    return Unread(name)


def _is_harmless(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    words = [*module.split("."), *attribute.split(".")]
    if not all(word.isidentifier() for word in words):
        return False
    if name in _PRIVATE_BUT_HARMLESS or name in _HARMLESS_IN_RUNNING_MODULES:
        return True
    if any(word.startswith("__") and word.endswith("__") for word in attribute.split(".")):
        return False
    if module in _MODULES_OF_PYTHON:
        return attribute in _TYPES_OF_PYTHON
    return words[0] not in _RUNNING_MODULES and not name.startswith(_RUNNING_IN_TORCH)
