"""Scores as arithmetic over named numbers: what a rubric file may compute. Standard library only.

`matched / (matched + wrong)`, `max(0, 1 - 0.25 * errors)`. Numbers, names, + - * / and the functions min, max, abs:
nothing else is a score, so a rubric from elsewhere can be read without running it.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CALLS: Mapping[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs}
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression; made by `of`."""

    text: str
    body: ast.expr

    @classmethod
    def of(cls, text: str, names: Collection[str]) -> Expression:
        """Read an expression over `names`.

        Raises:
            ValueError: it is no arithmetic, or speaks of a name that is not known.
        """
        if len(text) > _LONGEST:
            raise ValueError(f"score is longer than {_LONGEST} characters")
        try:
            body = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, RecursionError, MemoryError):
            raise ValueError(f"score is not arithmetic: {text.strip()}") from None
        _check(body, names)
        return cls(text, body)

    def value(self, numbers: Mapping[str, float]) -> float | None:
        """The number it comes to; None for a division by zero, or anything that is no finite number.

        >>> Expression.of("a / (a + b)", ["a", "b"]).value({"a": 3, "b": 1})
        0.75
        """
        try:
            found = float(_value(self.body, numbers))
        except (ZeroDivisionError, OverflowError):
            return None
        return found if math.isfinite(found) else None


def _check(node: ast.expr, names: Collection[str]) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        _check(node.left, names)
        _check(node.right, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(node.operand, names)
    elif isinstance(node, ast.Call):
        _check_call(node, names)
    elif isinstance(node, ast.Name):
        if node.id not in names:
            raise ValueError(f"score speaks of {node.id!r}, which is no category")
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise ValueError("score may hold numbers, categories, + - * /, min, max and abs only")


def _check_call(node: ast.Call, names: Collection[str]) -> None:
    known = isinstance(node.func, ast.Name) and node.func.id in _CALLS
    if not known or node.keywords or not node.args:
        raise ValueError("score may call min, max and abs only")
    if isinstance(node.func, ast.Name) and (node.func.id == "abs") is not (len(node.args) == 1):
        raise ValueError("abs takes one number; min and max take two or more")
    for each in node.args:
        _check(each, names)


def _value(node: ast.expr, numbers: Mapping[str, float]) -> float:
    match node:
        case ast.BinOp(left, op, right):
            return _BINARY[type(op)](_value(left, numbers), _value(right, numbers))
        case ast.UnaryOp(_, operand):
            return -_value(operand, numbers)
        case ast.Call(ast.Name(name), args):
            return _CALLS[name](*(_value(each, numbers) for each in args))
        case ast.Name(name):
            return float(numbers[name])
        case ast.Constant(value) if isinstance(value, int | float):
            return float(value)
    raise AssertionError("checked before")
