"""Arrays that know the formula they came from: rules run on them, and what comes out says what the rule does."""

from collections.abc import Callable
from typing import Any

from ..backends import backend_for
from ..backends.meta.metering import metering
from ..core.op import ARRAYS, MISSING, OPS
from ..core.tape import Bundle
from .formula import Formula, call, literal
from .tracing import stand_in

__all__ = ["TERMS", "Term", "array_of", "each_term", "term"]

_LONG = 8  # ops in a formula: a slope that is longer is written as f'
_SHAPING = frozenset({"astype", "broadcast_to", "reshape", "sum_to"})  # nothing to say where nothing changes


class Term:
    """An array without numbers and its formula. Rules take it for an array."""

    __slots__ = ("array", "formula")
    __array_ufunc__ = None

    def __init__(self, array: Any, formula: Formula) -> None:
        self.array, self.formula = array, formula

    @property
    def mT(self) -> "Term":
        """The last two axes swapped."""
        inner = self.formula
        return Term(self.array.mT, inner.parts[0] if inner.op == "transpose" else call("transpose", [inner]))

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "ndim", "size", "device"):
            return getattr(self.array, name)
        raise AttributeError(name)

    def __neg__(self) -> "Term":
        return Term(-self.array, call("negative", [self.formula]))

    def __bool__(self) -> bool:
        return bool(self.array)

    def __float__(self) -> float:
        return float(self.array)

    def __getitem__(self, index: Any) -> "Term":
        inside = index.array if isinstance(index, Term) else index
        return Term(self.array[inside], call("getitem", [self.formula, _formula(index)]))


def _operator(name: str, reflected: bool) -> Callable[[Any, Any], Term]:
    def run(self: Term, other: Any) -> Term:
        a, b = (other, self) if reflected else (self, other)
        value = self.array.call(name, array_of(a), array_of(b))
        parts = [_formula(a), _formula(b)]
        if name == "multiply" and parts[0].op == "expand_dims" and min(a.shape[-1], b.ndim) == 1:
            rows = parts[1].parts[0] if parts[1].op == "expand_dims" else parts[1]
            return term(value, call("outer", [parts[0].parts[0], rows]))
        if name == "matmul" and parts[0].op == "expand_dims" and a.shape[:-1] == (1,):
            parts[0] = parts[0].parts[0]  # a vector on the left is a row
        return term(value, call(name, parts))

    return run


for _short, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow", "matmul": "matmul",
    "and": "bitwise_and", "or": "bitwise_or",
}.items():  # fmt: skip
    setattr(Term, f"__{_short}__", _operator(_name, False))
    setattr(Term, f"__r{_short}__", _operator(_name, True))
for _short, _name in {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}.items():  # fmt: skip
    setattr(Term, f"__{_short}__", _operator(_name, False))
Term.__hash__ = object.__hash__  # type: ignore[method-assign]


def term(array: Any, formula: Formula) -> Term:
    """The term of a raw array."""
    array = stand_in(array)
    if array.size == 1 and not formula.scalar:
        formula = Formula(formula.op, formula.parts, formula.options, formula.text, formula.latex, True)
    return Term(array, formula)


def array_of(x: Any) -> Any:
    """The raw array of a term; of a list or a bundle of terms those of each; anything else as it is."""
    if isinstance(x, Term):
        return x.array
    if isinstance(x, Bundle):
        return Bundle(map(array_of, x))
    return type(x)([array_of(y) for y in x]) if type(x) in (list, tuple) else x


def each_term(value: Any) -> list[Term]:
    """The terms in what a rule gave."""
    parts = value if isinstance(value, list | tuple) else [value]
    return [x for x in parts if isinstance(x, Term)]


def _formula(x: Any) -> Formula:
    if isinstance(x, Term):
        return x.formula
    if isinstance(x, list | tuple) and any(isinstance(y, Term) for y in x):
        return call("list", [_formula(y) for y in x])
    if hasattr(x, "dtype") and getattr(x, "size", 0) > 1:
        return literal(f"{x.dtype}{list(x.shape)}")
    return literal(x)


class _Terms:
    """The namespace of ops over terms."""

    def __getattr__(self, name: str) -> Any:
        if name not in OPS:
            raise AttributeError(f"no op is called {name!r}")
        op = OPS[name]
        is_slope = op.kind == "composite" and op.inputs[:1] == ("g",)
        function = _slope(name) if is_slope else _applied(name)
        setattr(self, name, function)
        return function


TERMS = _Terms()


def _applied(name: str) -> Callable[..., Any]:
    """An op over terms."""
    arguments, formula = OPS[name].arguments, OPS[name].formula

    def run(*args: Any, **kwargs: Any) -> Any:
        raw = getattr(ARRAYS[backend_for("meta").array_types[0]], name)
        value = raw(*map(array_of, args), **{key: array_of(x) for key, x in kwargs.items()})
        if isinstance(value, tuple):
            return type(value)(*(term(v, call(f"{name}.{i}", _parts(args))) for i, v in enumerate(value)))
        given = args[0] if args else None
        if name in _SHAPING and isinstance(given, Term):
            same = (given.shape, given.dtype) == (value.shape, value.dtype)
            if same or (name == "sum_to" and given.size == value.size):  # only axes of length 1 go
                return Term(value, given.formula)
        if formula is not None:
            with metering(None):
                made = formula(TERMS, *args, **kwargs)
            if isinstance(made, Term):
                return Term(value, made.formula)
        named = {a.name: a.default for a in arguments if a.name in kwargs}
        options = {key: _formula(x) for key, x in kwargs.items() if x is not named.get(key)}
        return term(value, call(name, _parts(args, arguments), options))

    return run


def _parts(args: Any, arguments: Any = ()) -> list[Formula]:
    """The formulas of what was given, without what is the default anyway."""
    defaults = [a.default for a in arguments][: len(args)]
    defaults += [MISSING] * (len(args) - len(defaults))
    given = [x for x, default in zip(args, defaults, strict=True) if x is not None and not _is_default(x, default)]
    return [_formula(x) for x in given]


def _is_default(x: Any, default: Any) -> bool:
    return isinstance(x, bool | int | float | str) and x == default


def _slope(name: str) -> Callable[..., Any]:
    """The derivative of an op times `g`: its own formula or, where that is long, `g * f'(value)`."""
    body, of = OPS[name].forward, OPS.get(name.removesuffix("_slope"))

    def run(g: Any, *args: Any, **kwargs: Any) -> Any:
        value = body(TERMS, g, *args, **kwargs)
        if not isinstance(value, Term) or value.formula.size - _formula(g).size < _LONG:
            return value
        if of is not None and of.kind == "elementwise":
            return term(value.array, call("multiply", [_formula(g), call(f"{of.name}'", [_formula(args[0])])]))
        return term(value.array, call(name, _parts((g, *args))))

    return run
