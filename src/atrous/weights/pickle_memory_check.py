"""Tracks the kinds of objects on the stack of a pickle, without creating any of them.

PyTorch's reader calls `function(*arguments)`, and any object on the stack can be `arguments`. If `arguments` is a
tensor, Python creates one object for each number in the tensor. A small file can contain a huge tensor that repeats one
number, so a call with a tensor can fill the memory. Therefore, the only allowed calls are those with a tuple that is
written out in the pickle.
"""

from __future__ import annotations

import pickletools
from typing import Any

#: Operation → number of objects that it pops and number of objects that it pushes, for operations without a mark.
_COUNTS = {
    opcode.name: (len(opcode.stack_before), len(opcode.stack_after))
    for opcode in pickletools.opcodes
    if pickletools.markobject not in opcode.stack_before
}
_TUPLES = frozenset({"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_DICTS = frozenset({"EMPTY_DICT", "DICT"})
#: Callables that return a dict.
_DICT_TYPES = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
    }
)
_MARK = "mark"


class Stack:
    """The kinds of objects on a pickle's stack: "tuple", "dict", the name of a callable, or "" for other objects."""

    def __init__(self) -> None:
        self._kinds: list[str] = []
        self._memo: dict[Any, str] = {}

    def name(self, name: str) -> None:
        """Sets the name of the callable on top of the stack, as PyTorch's reader resolves it."""
        self._kinds[-1] = name

    def step(self, opcode: str, argument: Any) -> None:
        """Applies one operation to the stack.

        Args:
            opcode: name of the operation in `pickletools`.
            argument: argument of the operation in the pickle.

        Raises:
            ValueError: the operation is not allowed. An operation is not allowed if the arguments of a call are not a
                tuple, a storage is called, a state is neither a tuple nor a dict, the state of a dict is not a dict,
                items are set in an object that is not a dict, or the stack is empty.
        """
        kinds = self._kinds
        if opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._top()
        elif opcode in ("BINGET", "LONG_BINGET"):
            kinds.append(self._memo.get(argument, ""))
        elif opcode == "MARK":
            kinds.append(_MARK)
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, called = self._pop(), self._pop()
            if arguments != "tuple" or called.endswith("Storage"):
                raise ValueError(f"it calls {called or 'an object'} in another way than torch.save writes it")
            kinds.append("dict" if called in _DICT_TYPES else "")
        elif opcode == "BUILD":
            state, built = self._pop(), self._top()
            if state != "dict" and (state != "tuple" or built == "dict"):
                raise ValueError("it sets a state of another type than torch.save writes")
        elif opcode in ("SETITEM", "SETITEMS"):
            self._take(2) if opcode == "SETITEM" else self._take_to_mark()
            if self._top() != "dict":
                raise ValueError("it sets items in an object that is not a dict")
        elif opcode == "DUP":
            kinds.append(self._top())
        else:
            self._plain(opcode)

    def _plain(self, opcode: str) -> None:
        """Applies an operation whose result does not depend on the kinds of its operands."""
        if opcode not in _COUNTS:
            self._take_to_mark()
            if opcode in ("TUPLE", "DICT", "LIST", "FROZENSET", "INST", "OBJ"):
                self._kinds.append(_made(opcode))
            return
        taken, given = _COUNTS[opcode]
        if opcode == "APPEND":  # the list stays on the stack
            taken, given = 1, 0
        self._take(taken)
        self._kinds += [_made(opcode)] * given

    def _top(self) -> str:
        if not self._kinds:
            raise ValueError("it pops from an empty stack")
        return self._kinds[-1]

    def _pop(self) -> str:
        top = self._top()
        self._kinds.pop()
        return top

    def _take(self, count: int) -> None:
        for _ in range(count):
            self._pop()

    def _take_to_mark(self) -> None:
        while self._pop() != _MARK:
            pass


def _made(opcode: str) -> str:
    return "tuple" if opcode in _TUPLES else "dict" if opcode in _DICTS else ""
