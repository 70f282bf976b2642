"""What the whole Jacobian of a function costs, by each of three ways."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..core.tape import PART
from .ledger import Count

__all__ = ["JacobianForm", "dense_products", "jacobian_forms"]


@dataclass(frozen=True, slots=True)
class JacobianForm:
    """One way to the Jacobian of all outputs by all inputs.

    Attributes:
        walks: How many VJPs, JVPs, or products of dense matrices.
        count: What they and one forward pass do.
        nbytes: Bytes of the Jacobian itself.
    """

    walks: int
    count: Count
    nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)


def jacobian_forms(
    phases: Mapping[str, Count], products: tuple[int, Count], inputs: int, outputs: Sequence[Any]
) -> dict[str, JacobianForm]:
    """The forms by name: "reverse" pulls each output's unit vector, "forward" pushes each input's, one by one, and
    "product" makes the dense Jacobian of every equation and multiplies them in the order of the forward pass.

    Args:
        phases: What "forward", "vjp" and "jvp" do; a form whose walk is missing is left out.
        products: What `dense_products` gave.
        inputs: How many numbers it is differentiated by.
        outputs: The output tensors.
    """
    rows = sum(x.size for x in outputs)
    nbytes = sum(x.size * x.dtype.itemsize for x in outputs) * inputs
    forms = {}
    for form, phase, walks in (("reverse", "vjp", rows), ("forward", "jvp", inputs)):
        if phase in phases:
            forms[form] = JacobianForm(walks, phases["forward"] + phases[phase] * walks, nbytes)
    forms["product"] = JacobianForm(products[0], phases["forward"] + products[1], nbytes)
    return forms


def dense_products(
    tape: Sequence[Any], ends: Mapping[Any, int], size_of: Callable[[Any], int], itemsize: int
) -> tuple[int, Count]:
    """How many products of dense Jacobians, and what they do.

    For an equation of s numbers with a parent of p, which depends on inputs of n numbers in all: the elementary
    Jacobian, s x p, is written, and multiplied with the parent's, p x n. An elementary Jacobian by an input needs no
    product, and picking one of several outputs is none. Where parents depend on the same inputs products are added.
    """
    depends: dict[Any, frozenset[Any]] = {end: frozenset([end]) for end in ends}
    products, count = 0, Count()
    for e in tape:
        parents = [n for n in e.parents if n in depends]
        if not parents:
            continue
        depends[e] = frozenset().union(*(depends[n] for n in parents))
        if e.op is PART:
            continue
        s, seen = size_of(e), frozenset[Any]()
        for n in parents:
            p, width = size_of(n), sum(ends[end] for end in depends[n])
            count += Count(written=s * p * itemsize, launches=1)
            if n not in ends:
                products += 1
                adds = s * p * width
                moved = (s * p + p * width) * itemsize
                count += Count(2 * adds, adds, moved, s * width * itemsize, 1)
            twice = s * sum(ends[end] for end in depends[n] & seen)
            if twice:
                count += Count(twice, 0, 2 * twice * itemsize, twice * itemsize, 1)
            seen |= depends[n]
    return products, count
