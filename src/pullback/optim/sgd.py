"""Stochastic gradient descent."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..backends import Backend
from ..errors import ArgumentError
from .optimizer import LearningRate, Optimizer, checked_number

__all__ = ["SGD"]


class SGD(Optimizer):
    """Gradient descent with momentum, by PyTorch's formulas.

        g = g + weight_decay p
        velocity = momentum velocity + (1 - dampening) g        (g at the first step)
        p = p - lr (g + momentum velocity if nesterov, else velocity; g without momentum)

    Nesterov's momentum is that of Sutskever et al., "On the importance of initialization and momentum in deep learning"
    (2013), section 2, with the velocity in units of gradients.

    Args:
        params: What to change, see `Optimizer`.
        lr: Learning rate or schedule.
        momentum: How much of the velocity stays; 0 keeps none.
        nesterov: Whether to look ahead along the velocity; needs momentum, and no dampening.
        weight_decay: Factor of the parameters that is added to their gradients (an L2 penalty of half of it).
        dampening: What part of a gradient the velocity leaves out.

    Raises:
        ArgumentError, DtypeError, TapeError: the hyperparameters or the parameters cannot be used.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, dampening=dampening
        )

    def _checked(self, *, momentum: float, nesterov: bool, weight_decay: float, dampening: float) -> dict[str, Any]:
        numbers = {"momentum": momentum, "weight_decay": weight_decay, "dampening": dampening}
        numbers = {name: checked_number(self._who, name, value) for name, value in numbers.items()}
        if nesterov and (not momentum or dampening):
            raise ArgumentError(f"{self._who}: nesterov needs momentum above 0 and no dampening")
        return {**numbers, "nesterov": bool(nesterov)}

    def _slots(self, hyperparameters: Mapping[str, Any]) -> tuple[str, ...]:
        return ("velocity",) if hyperparameters["momentum"] else ()

    def _update(self, backend: Backend, rows: Sequence[Any], rate: float, age: int, skip: Any) -> None:
        options = self.hyperparameters
        if not options["momentum"]:
            rows = [(p, g, None, master) for p, g, master in rows]
        backend.update_sgd(
            rows,
            rate=rate,
            momentum=options["momentum"],
            dampening=options["dampening"] if age > 1 else 0.0,
            nesterov=options["nesterov"],
            decay=options["weight_decay"],
            skip=skip,
        )
