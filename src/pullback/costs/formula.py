"""Formulas: what a rule of an op does, as text and as LaTeX."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.op import OPS

__all__ = ["Formula", "bar", "call", "latex_name", "literal", "symbol", "written"]

_INFIX = {  # op -> (how tightly it binds, text, LaTeX)
    "bitwise_or": (2, "|", r"\vee"), "bitwise_and": (3, "&", r"\wedge"),
    "less": (1, "<", "<"), "less_equal": (1, "<=", r"\leq"), "greater": (1, ">", ">"),
    "greater_equal": (1, ">=", r"\geq"), "equal": (1, "==", "="), "not_equal": (1, "!=", r"\neq"),
    "add": (4, "+", "+"), "subtract": (4, "-", "-"),
    "multiply": (5, "*", r"\odot"), "divide": (5, "/", r"\oslash"), "matmul": (5, "@", r"\,"),
    "pow": (7, "**", "^"),
}  # fmt: skip
_NEGATIVE, _ATOM = 6, 9


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression: `op` of `parts`, or where there is no op, a name or a number.

    Attributes:
        op: The name of an op; "" for a name, a number, or a parameter as it is written.
        parts: What the op is applied to.
        options: Parameters given by name.
        text, latex: How what has no op is written.
        scalar: Whether it is one number: its products are written without a sign.
    """

    op: str = ""
    parts: tuple["Formula", ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    text: str = ""
    latex: str = ""
    scalar: bool = False

    def __str__(self) -> str:
        return self._written(0, False)

    def to_latex(self) -> str:
        """The formula in LaTeX, for math mode."""
        return self._written(0, True)

    @property
    def size(self) -> int:
        """How many ops there are in it."""
        return bool(self.op) + sum(part.size for part in self.parts)

    def replaced(self, old: "Formula", new: "Formula") -> "Formula":
        """The formula with `new` in every place of `old`."""
        if self == old:
            return new
        parts = tuple(part.replaced(old, new) for part in self.parts)
        return Formula(self.op, parts, self.options, self.text, self.latex, self.scalar)

    def _written(self, outer: int, latex: bool) -> str:
        """The formula beside something that binds as tightly as `outer`."""
        level, text = self._plain(latex)
        if level >= outer:
            return text
        return rf"\left({text}\right)" if latex else f"({text})"

    def _plain(self, latex: bool) -> tuple[int, str]:
        if not self.op:
            return (_NEGATIVE if self.text.startswith("-") else _ATOM), self.latex if latex else self.text
        if self.op in _INFIX and len(self.parts) == 2 and not self.options:
            return self._infix(latex)
        if self.op == "negative" and len(self.parts) == 1:
            return _NEGATIVE, "-" + self.parts[0]._written(_NEGATIVE, latex)
        if self.op == "transpose":
            inner = self.parts[0]._written(_ATOM, latex)
            return _ATOM, f"{{{inner}}}^{{\\mathsf{{T}}}}" if latex else f"{inner}^T"
        if self.op == "where" and len(self.parts) == 3 and self.parts[2].text in ("0", "0.0"):
            chosen = self.parts[0]._written(0, latex)
            sign = r" \odot " if latex else " * "
            return 5, f"[{chosen}]{sign}{self.parts[1]._written(5, latex)}"
        if self.op == "list":
            listed = ", ".join(part._written(0, latex) for part in self.parts)
            return _ATOM, rf"\left({listed}\right)" if latex else f"({listed})"
        if self.op == "getitem" and len(self.parts) == 2:
            index = self.parts[1]._written(0, latex)
            bare = index if latex else index.removeprefix("(").removesuffix(")")
            return _ATOM, f"{self.parts[0]._written(_ATOM, latex)}[{bare}]"
        if self.op == "outer" and latex:
            return self._product(*self.parts)
        inside = [part._written(0, latex) for part in self.parts]
        inside += [f"{_words(name)} = {_words(value)}" if latex else f"{name}={value}" for name, value in self.options]
        if latex:
            prime = self.op.endswith("'")
            return _ATOM, rf"{_operator(self.op.rstrip(chr(39)))}{prime * chr(39)}\left({', '.join(inside)}\right)"
        return _ATOM, f"{self.op}({', '.join(inside)})"

    @staticmethod
    def _product(a: "Formula", b: "Formula") -> tuple[int, str]:
        """The outer product as a column times a row."""
        return 5, rf"{a._written(5, True)} \, {{{b._written(_ATOM, True)}}}^{{\mathsf{{T}}}}"

    def _infix(self, latex: bool) -> tuple[int, str]:
        level, sign, drawn = _INFIX[self.op]
        a, b = self.parts
        if latex and self.op == "divide":
            return _ATOM, rf"\frac{{{a._written(0, True)}}}{{{b._written(0, True)}}}"
        if latex and self.op == "pow":
            return 7, f"{{{a._written(_ATOM, True)}}}^{{{b._written(0, True)}}}"
        if latex and self.op == "multiply" and (a.scalar or b.scalar):
            drawn = r"\cdot" if not b.op and re.match(r"-?[\d.]", b.text) else r"\,"
        left = a._written(level + (self.op == "pow"), latex)
        tight = self.op in ("subtract", "divide", "matmul") or b.op in ("divide", "matmul")
        right = b._written(level + (tight and level < _NEGATIVE), latex)
        return level, f"{left} {drawn if latex else sign} {right}"


def symbol(name: str, latex: str | None = None, scalar: bool = False) -> Formula:
    """A name."""
    return Formula(text=name, latex=latex_name(name) if latex is None else latex, scalar=scalar)


def bar(name: str, scalar: bool = False) -> Formula:
    """The cotangent of what has this name."""
    return Formula(text=f"{name}_bar", latex=latex_name(name, cotangent=True), scalar=scalar)


def literal(value: Any) -> Formula:
    """A number (also one in text), or a parameter as it is written."""
    if isinstance(value, float) and abs(value) < 1 and value and float(f"{value:.4g}") != value:
        below = round(1 / value)
        if abs(below * value - 1) < 1e-9:
            return Formula("divide", (literal(1), literal(below)), scalar=True)
    if isinstance(value, str) and re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", value):
        value = float(value) if set(value) & set(".e") else int(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else written(value)
    latex = re.sub(r"e([+-])0*(\d+)", lambda m: rf" \cdot 10^{{{m[1].strip('+')}{m[2]}}}", text)
    return Formula(text=text, latex=latex if number else _words(text), scalar=number)


def call(op: str, parts: Sequence[Formula], options: Mapping[str, Any] | None = None) -> Formula:
    """`op` of parts. `linear` and `linear_tanh` are written as the product, sum and function that they are."""
    base, _, activation = op.partition("_")
    if base == "linear" and (not activation or activation in OPS):
        affine = Formula("matmul", tuple(parts[:2]))
        affine = Formula("add", (affine, parts[2])) if len(parts) > 2 else affine
        return Formula(activation, (affine,)) if activation else affine
    return Formula(op, tuple(parts), tuple((name, str(value)) for name, value in (options or {}).items()))


def written(x: Any) -> str:
    """A parameter as it is written in code; an array by dtype and shape."""
    if isinstance(x, tuple | list) and len(x) > 1:
        return f"({', '.join(map(written, x))})"
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}{list(x.shape)}"
    if isinstance(x, slice):
        ends = (x.start, x.stop) if x.step is None else (x.start, x.stop, x.step)
        return ":".join("" if n is None else str(n) for n in ends)
    if x is Ellipsis:
        return "..."
    return str(x) if type(x).__name__.endswith("DType") else repr(x)


def latex_name(name: str, cotangent: bool = False) -> str:
    """A name in LaTeX: letters with a number are indexed, Greek letters are drawn, others are set as they are."""
    short = re.fullmatch(r"([A-Za-z])_?(\d*)", name) or re.fullmatch(r"(delta)_?(\d*)", name)
    if not short:
        word = rf"\mathtt{{{name.replace('_', chr(92) + '_')}}}"
        return rf"\overline{{{word}}}" if cotangent else word
    letter = short[1] if len(short[1]) == 1 else f"\\{short[1]}"
    letter = rf"\bar{{{letter}}}" if cotangent else letter
    return f"{letter}_{{{short[2]}}}" if short[2] else letter


def _operator(name: str) -> str:
    escaped = name.replace("_", r"\_")
    return rf"\operatorname{{{escaped}}}"


def _words(text: str) -> str:
    escaped = re.sub(r"([_#%&$])", r"\\\1", text).replace("{", r"\{").replace("}", r"\}")
    return rf"\mathrm{{{escaped}}}"
