"""Adam, and Adam with decoupled weight decay."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..backends import Backend
from ..errors import ArgumentError
from .optimizer import LearningRate, Optimizer, checked_number

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam: steps along averaged gradients, divided by the root of averaged squares.

        g = g + weight_decay p
        m = beta1 m + (1 - beta1) g;    v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)        at the t-th step, from 1

    Algorithm 1 of Kingma and Ba, "Adam: a method for stochastic optimization" (2015); defaults as in PyTorch. The state
    holds m / (1 - beta1) and v / (1 - beta2), the decayed sums `gradient_sum` and `square_sum`, which take two passes
    over memory less; the constant factors stand in `lr` and `eps`.

    Args:
        params: What to change, see `Optimizer`.
        lr: Learning rate or schedule.
        betas: How much of the two averages stays at each step.
        eps: Added to the root.
        weight_decay: Factor of the parameters that is added to their gradients (an L2 penalty of half of it).

    Raises:
        ArgumentError, DtypeError, TapeError: the hyperparameters or the parameters cannot be used.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _checked(self, *, betas: tuple[float, float], eps: float, weight_decay: float) -> dict[str, Any]:
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise ArgumentError(f"{self._who}: betas are two numbers; got {betas!r}") from None
        return {
            "betas": tuple(checked_number(self._who, "each of betas", beta, below=1.0) for beta in (beta1, beta2)),
            "eps": checked_number(self._who, "eps", eps),
            "weight_decay": checked_number(self._who, "weight_decay", weight_decay),
        }

    def _slots(self, hyperparameters: Mapping[str, Any]) -> tuple[str, ...]:
        return "gradient_sum", "square_sum"

    def _decay(self, rate: float) -> dict[str, float]:
        """How the weight decay enters: into the gradient."""
        return {"decay": self.hyperparameters["weight_decay"], "shrink": 1.0}

    def _update(self, backend: Backend, rows: Sequence[Any], rate: float, age: int, skip: Any) -> None:
        options = self.hyperparameters
        beta1, beta2 = betas = options["betas"]
        # With sums M = m / (1 - beta1), V = v / (1 - beta2) and root^2 = (1 - beta2^t) / (1 - beta2), both sides of the
        # fraction times root:  (1 - beta1) / (1 - beta1^t) root M / (sqrt(V) + eps root)
        root = ((1.0 - beta2**age) / (1.0 - beta2)) ** 0.5
        scale, eps = (1.0 - beta1) / (1.0 - beta1**age) * root, options["eps"] * root
        backend.update_adam(rows, rate=rate * scale, betas=betas, eps=eps, skip=skip, **self._decay(rate))


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters themselves, by `1 - lr weight_decay` before each step.

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019). All else is as in `Adam`.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def _decay(self, rate: float) -> dict[str, float]:
        """How the weight decay enters: beside the gradient."""
        return {"decay": 0.0, "shrink": 1.0 - rate * self.hyperparameters["weight_decay"]}
