"""Interprets the pickle of a weight file without executing anything."""

import io
import pickletools
import warnings
from typing import Any

from finetune_jax.errors import DAMAGE
from finetune_jax.files.weight_files.pickle_globals import global_named
from finetune_jax.files.weight_files.pickle_values import (
    FUNCTIONS,
    STORAGE_TYPES,
    Global,
    Storage,
    Tensor,
    Unread,
    extend,
    is_count,
    set_items,
)
from finetune_jax.files.weight_files.refusals import FETCH_AGAIN, BadFile

# Elements that calls may be given, at least and per byte of the pickle: every element is written once, in two bytes
# or more, but a few bytes can hand over a large mapping again and again.
_FEW_ELEMENTS = 2**18
_ELEMENTS_PER_BYTE = 4


class _Calls:
    """Calls the functions that build weights, within bounds."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream
        self._start = stream.tell()
        self._elements = 0

    def call(self, function: object, arguments: object) -> object:
        if isinstance(function, Unread):
            return function
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is not a function")
        self._count(len(arguments))
        self._count(sum(len(value) for value in arguments if isinstance(value, dict | list | tuple)))
        return FUNCTIONS[function.name](*arguments)

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > _FEW_ELEMENTS + _ELEMENTS_PER_BYTE * (self._stream.tell() - self._start):
            raise BadFile("copies the same values again and again, which no weights need; it is refused")


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
    "BYTEARRAY8",
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
    except DAMAGE as error:
        raise BadFile(FETCH_AGAIN) from error


def _interpret(stream: io.BytesIO) -> tuple[Any, list[Storage]]:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: list[Storage] = []
    calls = _Calls(stream)

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
                stack.append(global_named(argument))
            case "STACK_GLOBAL":
                module, name = pop(2)
                if not isinstance(module, str) or not isinstance(name, str):
                    raise ValueError("a global without a name")
                if len(module) + len(name) > 2**16:
                    raise ValueError("a global with an absurd name")
                stack.append(global_named(f"{module} {name}"))
            case "REDUCE" | "NEWOBJ":
                function, arguments = pop(2)
                stack.append(calls.call(function, arguments))
            case "NEWOBJ_EX":
                function, _arguments, _named = pop(3)
                if not isinstance(function, Unread):
                    raise ValueError("a call with names")
                stack.append(function)
            case "EMPTY_SET":
                stack.append(Unread("builtins set"))
            case "ADDITEMS":
                pop_to_mark()
                if not isinstance(stack[-1], Unread):
                    raise ValueError("members of something that is not a set")
            case "FROZENSET":
                pop_to_mark()
                stack.append(Unread("builtins frozenset"))
            case "BUILD":
                # Attributes (the _metadata of a state_dict, flags of a Parameter) carry no weights.
                owner, _attributes = pop(2)
                if not isinstance(owner, dict | Tensor | Unread):
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
