"""What lies on the stack while a pickle is read, followed without making anything.

PyTorch's reader calls with whatever lies there, `function(*arguments)`, and so takes a tensor apart into its numbers,
of which there may be any number that repeat one. It may call only with tuples that are written out in the pickle.
"""

from __future__ import annotations

import pickletools
from typing import Any

#: How many objects each operation takes and gives, where it takes no mark.
_COUNTS = {
    one.name: (len(one.stack_before), len(one.stack_after))
    for one in pickletools.opcodes
    if pickletools.markobject not in one.stack_before
}
_TUPLES = frozenset({"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_DICTS = frozenset({"EMPTY_DICT", "DICT"})
#: What makes a dict when it is called.
_OF_DICTS = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
    }
)
_MARK = "mark"


class Stack:
    """The kinds of the objects on a pickle's stack: "tuple", "dict", the name of code, or "" for all others."""

    def __init__(self) -> None:
        self._kinds: list[str] = []
        self._memo: dict[Any, str] = {}

    def name(self, name: str) -> None:
        """Says which code the uppermost object is, as PyTorch's reader finds it."""
        self._kinds[-1] = name

    def step(self, opcode: str, argument: Any) -> None:
        """Follows one operation.

        Args:
            opcode: its name in `pickletools`.
            argument: what the pickle gives with it.

        Raises:
            ValueError: a call with something other than a tuple, a state that is no tuple and no dict, a dict's state
                that is no dict, items of something else than a dict, a storage that is called, or an empty stack.
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
                raise ValueError(f"a call of {called or 'an object'} with something else than it is written with")
            kinds.append("dict" if called in _OF_DICTS else "")
        elif opcode == "BUILD":
            state, built = self._pop(), self._top()
            if state != "dict" and (state != "tuple" or built == "dict"):
                raise ValueError("a state of something else than it is written with")
        elif opcode in ("SETITEM", "SETITEMS"):
            self._take(2) if opcode == "SETITEM" else self._take_to_mark()
            if self._top() != "dict":
                raise ValueError("items of something that is no dict")
        elif opcode == "DUP":
            kinds.append(self._top())
        else:
            self._plain(opcode)

    def _plain(self, opcode: str) -> None:
        """Operations whose result does not depend on the kinds."""
        if opcode not in _COUNTS:
            self._take_to_mark()
            if opcode in ("TUPLE", "DICT", "LIST", "FROZENSET", "INST", "OBJ"):
                self._kinds.append(_made(opcode))
            return
        taken, given = _COUNTS[opcode]
        if opcode == "APPEND":  # the list stays
            taken, given = 1, 0
        self._take(taken)
        self._kinds += [_made(opcode)] * given

    def _top(self) -> str:
        if not self._kinds:
            raise ValueError("a pickle takes more from its stack than lies there")
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
