"""Interprets the pickle of a weight file without executing anything."""

import io
import pickletools
import warnings
from typing import Any

from finetune_jax.files.weight_files.pickle_values import (
    FUNCTIONS,
    IGNORED,
    IGNORED_GLOBALS,
    STORAGE_TYPES,
    UNTYPED_DTYPES,
    Global,
    Ignored,
    Storage,
    Tensor,
    extend,
    is_count,
    set_items,
)
from finetune_jax.files.weight_files.refusals import FETCH_AGAIN, BadFile


def _global(name: object) -> Global:
    """The global `"module name"` if it is in a table; anything else is refused by name."""
    if not isinstance(name, str):
        raise ValueError("a global without a name")
    if name in FUNCTIONS or name in STORAGE_TYPES or name in UNTYPED_DTYPES or name in IGNORED_GLOBALS:
        return Global(name)
    shown = name[:100].replace(" ", ".", 1)
    if not shown.isprintable():
        shown = repr(shown)
    raise BadFile(
        f"asks for the Python object {shown}, which no weights need; it is refused and nothing was run: "
        "if the file holds a whole pickled model, save its state_dict() alone where it was made"
    )


def _call(function: object, arguments: object) -> object:
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that is not a function")
    if function.name in IGNORED_GLOBALS:
        return IGNORED
    return FUNCTIONS[function.name](*arguments)


def _storage(persistent_id: object) -> Storage:
    """The storage that `("storage", type, key, device, numel[, None | (key, start, numel)])` stands for."""
    if (
        not isinstance(persistent_id, tuple)
        or not 5 <= len(persistent_id) <= 6
        or persistent_id[0] != "storage"
    ):
        raise ValueError("an unknown external object")
    _, kind, key, _, numel, *rest = persistent_id
    if not isinstance(kind, Global) or not isinstance(key, str) or not is_count(numel):
        raise ValueError("a malformed storage")
    dtype = STORAGE_TYPES[kind.name]
    if not rest or rest[0] is None:
        return Storage(key, dtype, 0, numel)
    _, start, length = rest[0]
    if not is_count(start) or not is_count(length) or start + length > numel:
        raise ValueError("a view that reaches beyond its storage")
    return Storage(key, dtype, start, length)


_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}


def unpickle(stream: io.BytesIO) -> tuple[Any, list[Storage]]:
    """Interprets one pickle (protocols 2 to 5) and leaves the stream behind it.

    Returns:
        The value, made only of scalars, strings, lists, tuples, dicts and the stand-ins of this module; and
        every storage it names, in order of appearance.
    """
    try:
        with warnings.catch_warnings():
            # pickletools decodes refused instructions too, and warns of odd escapes in them.
            warnings.simplefilter("ignore")
            return _interpret(stream)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise BadFile(FETCH_AGAIN) from error


def _interpret(stream: io.BytesIO) -> tuple[Any, list[Storage]]:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: list[Storage] = []

    def pop(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("the stack is empty")
        values = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return values

    def pop_to_mark() -> list[Any]:
        return pop(len(stack) - marks.pop())

    for instruction, argument, _ in pickletools.genops(stream):
        match instruction.name:
            case literal if literal in _LITERALS:
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]  # type: ignore[index]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])  # type: ignore[index]
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction.name == "NEWTRUE")
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(instruction.name[-1]))))
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                items = pop(1)
                extend(stack[-1], items)
            case "APPENDS":
                items = pop_to_mark()
                extend(stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                items = pop(2)
                set_items(stack[-1], items)
            case "SETITEMS":
                items = pop_to_mark()
                set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(_global(argument))
            case "STACK_GLOBAL":
                module, name = pop(2)
                if not isinstance(module, str) or not isinstance(name, str):
                    raise ValueError("a global without a name")
                stack.append(_global(f"{module} {name}"))
            case "REDUCE" | "NEWOBJ":
                function, arguments = pop(2)
                stack.append(_call(function, arguments))
            case "BUILD":
                # Attributes (the _metadata of a state_dict, flags of a Parameter) carry no weights.
                owner, _attributes = pop(2)
                if not isinstance(owner, dict | Tensor | Ignored):
                    raise ValueError("attributes of something that has none")
                stack.append(owner)
            case "BINPERSID":
                storages.append(_storage(stack.pop()))
                stack.append(storages[-1])
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop(), storages
            case other:
                raise BadFile(f"uses the pickle instruction {other}, which no weights need; it is refused")
    raise ValueError("a pickle without an end")
