"""The table of kinds: what a window can be reduced to, one row each.

The array functions, the PyTorch front, the command and the tests all iterate over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isfinite, isinf
from typing import Any, NamedTuple

from .reading import Front, check_bool, check_word, real

REQUIRED = object()  # in place of a default

METHODS = ("linear", "lower", "higher", "nearest")


class Argument(NamedTuple):
    """An argument of one kind. ``read(function, name, value, front)`` checks it."""

    name: str
    default: Any
    read: Callable[[str, str, object, Front], Any]
    annotation: type
    text: str


class Reduction(NamedTuple):
    """What the core does: its reducer and the parameters; perhaps of ``abs(x)``."""

    reducer: str
    parameters: tuple[float, ...] = ()
    absolute: bool = False


@dataclass(frozen=True)
class Kind:
    """One way to reduce a window. Its array function is ``f"{name}_pool"``.

    ``reducer`` is the core's, and ``parameters`` turns the kind's own arguments, checked, into
    those of the reducer. ``formula`` is NumPy over ``w``, the valid elements of one window, and
    ``empty`` what a window without any gives.
    """

    name: str
    reducer: str
    summary: str
    formula: str
    empty: str
    arguments: tuple[Argument, ...] = ()
    parameters: Callable[..., tuple[float, ...]] = lambda: ()
    notes: str = ""
    adaptive: bool = True
    indices: bool = False  # whether winners can be asked for
    random: bool = False  # whether results depend on a seed
    composite: bool = False  # a mixture of two reductions, alpha * max + (1 - alpha) * mean

    @property
    def function(self) -> str:
        """The name of the array function."""
        return f"{self.name}_pool"

    def read(self, function: str, values: Mapping[str, object], front: Front) -> dict[str, Any]:
        """The kind's own arguments, checked, with defaults for what is not in ``values``.

        Raises ``TypeError`` and the front's value error, in words that begin with ``function``.
        """
        return {
            name: read(function, name, values.get(name, default), front)
            for name, default, read, *_ in self.arguments
        }

    def reduce(self, function: str, values: Mapping[str, object], front: Front) -> Reduction:
        """What the core is asked for, given the kind's own arguments as they came.

        >>> from infinitypool.spec import KINDS, NUMPY
        >>> KINDS["gem"].reduce("gem_pool", {"p": 4}, NUMPY)
        Reduction(reducer='power_mean', parameters=(4.0, 1e-06), absolute=False)
        """
        arguments = self.read(function, values, front)
        if self.reducer == "lp" and isinf(arguments["p"]):
            # The limit of large powers: PyTorch, too, takes the maximum of the absolute values.
            return Reduction("max", (), True)
        if self.composite:
            return Reduction("max")
        return Reduction(self.reducer, self.parameters(**arguments))


def _number(rule: str, holds: Callable[[float], bool]) -> Callable[..., float]:
    def read(function: str, name: str, value: object, front: Front) -> float:
        return real(function, name, value, front, rule, holds)

    return read


def _method(function: str, name: str, value: object, front: Front) -> float:
    return float(METHODS.index(check_word(function, name, value, METHODS, front)))


_P_NORM = Argument(
    "p",
    2.0,
    _number("at least 1", lambda p: p >= 1),
    float,
    "The power, at least 1, or infinity for the largest absolute value.",
)
_P_MEAN = Argument(
    "p",
    3.0,
    _number("a positive finite number", lambda p: p > 0 and isfinite(p)),
    float,
    "The power, above 0. 1 is the mean; the larger, the closer to the maximum.",
)
_EPS = Argument(
    "eps",
    1e-6,
    _number("a finite number of 0 or more", lambda eps: eps >= 0 and isfinite(eps)),
    float,
    "Elements below it count as it.",
)
_BETA_SUM = Argument(
    "beta",
    1.0,
    _number("a finite number other than 0", lambda beta: beta != 0 and isfinite(beta)),
    float,
    "The sharpness, not 0: large is close to the maximum, below 0 close to the minimum.",
)
_BETA_SOFT = _BETA_SUM._replace(
    read=_number("a finite number", isfinite),
    text="The sharpness: 0 is the mean, large is close to the maximum.",
)
_Q = Argument(
    "q",
    REQUIRED,
    _number("from 0 to 1", lambda q: 0 <= q <= 1),
    float,
    "The quantile, from 0 (the smallest element) to 1 (the largest).",
)
_METHOD = Argument(
    "method",
    "linear",
    _method,
    str,
    'What to do between two elements: "linear", "lower", "higher" or "nearest", as '
    "``numpy.quantile``.",
)
_EXPECTATION = Argument(
    "expectation",
    False,
    check_bool,
    bool,
    "The expectation over all draws instead of one.",
)
_ALPHA = Argument(
    "alpha",
    0.5,
    _number("from 0 to 1", lambda alpha: 0 <= alpha <= 1),
    float,
    "The share of the maximum.",
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "max",
            "max",
            "The largest element of every window.",
            "np.max(w)",
            "minus infinity, or the least number of an integer type, or False",
            notes="The first of equal elements wins, and a NaN wins over everything.",
            indices=True,
        ),
        Kind(
            "min",
            "min",
            "The smallest element of every window.",
            "np.min(w)",
            "plus infinity, or the largest number of an integer type, or True",
            notes="The first of equal elements wins, and a NaN wins over everything.",
            indices=True,
        ),
        Kind(
            "avg",
            "mean",
            "The mean of every window.",
            "np.mean(w)",
            "NaN, or 0 for integers",
            notes="Half precisions accumulate in float32, other floats as they are. Integers are added "
            "exactly.",
        ),
        Kind(
            "sum",
            "sum",
            "The sum of every window.",
            "np.sum(w)",
            "0",
            notes="Integers give int64 or uint64, as ``numpy.sum`` does.",
        ),
        Kind(
            "lp",
            "lp",
            "The p-norm of every window: the p-th root of the sum of p-th powers.",
            "np.sign(np.sum(w**p)) * np.abs(np.sum(w**p)) ** (1 / p)",
            "0",
            (_P_NORM,),
            lambda p: (p,),
            notes="The root keeps the sum's sign, so an odd ``p`` gives a number for negative "
            "elements, too. With a broken ``p`` a negative element gives NaN, as ``numpy.power``. "
            "Source: ``torch.nn.LPPool2d``.",
        ),
        Kind(
            "rms",
            "power_mean",
            "The root mean square of every window.",
            "np.sqrt(np.mean(w**2))",
            "NaN",
            parameters=lambda: (2.0, -inf),
        ),
        Kind(
            "gem",
            "power_mean",
            "The generalised mean of every window.",
            "np.mean(np.maximum(w, eps) ** p) ** (1 / p)",
            "NaN",
            (_P_MEAN, _EPS),
            lambda p, eps: (p, eps),
            notes="Source: Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human "
            "Annotation, https://arxiv.org/abs/1711.02512.",
        ),
        Kind(
            "log_sum_exp",
            "log_sum_exp",
            "The logarithm of the sum of exponentials of every window, a smooth maximum.",
            "np.log(np.sum(np.exp(beta * w))) / beta",
            "minus infinity (plus infinity for a ``beta`` below 0)",
            (_BETA_SUM,),
            lambda beta: (beta,),
            notes="No exponential overflows: the largest element is taken out first.",
        ),
        Kind(
            "soft",
            "soft",
            "The mean of every window, weighted by the exponentials of its elements.",
            "np.average(w, weights=np.exp(beta * w))",
            "NaN",
            (_BETA_SOFT,),
            lambda beta: (beta,),
            notes="Source: Stergiou, Poppe and Kalliatakis, Refining activation downsampling with "
            "SoftPool, https://arxiv.org/abs/2101.00440.",
        ),
        Kind(
            "median",
            "quantile",
            "The median of every window.",
            "np.median(w)",
            "NaN, or 0 for integers",
            parameters=lambda: (0.5, 0.0),
            notes="Integers keep their dtype: the mean of two middle elements rounds to nearest, "
            "ties to even. A NaN in a window gives NaN.",
        ),
        Kind(
            "quantile",
            "quantile",
            "A quantile of every window.",
            "np.quantile(w, q, method=method)",
            "NaN, or 0 for integers",
            (_Q, _METHOD),
            lambda q, method: (q, method),
            notes="Integers keep their dtype: a number between two elements rounds to nearest, "
            "ties to even. A NaN in a window gives NaN.",
        ),
        Kind(
            "stochastic",
            "stochastic",
            "An element of every window, drawn with a probability by its size.",
            "np.random.choice(w, p=np.maximum(w, 0) / np.sum(np.maximum(w, 0)))",
            "NaN",
            (_EXPECTATION,),
            lambda expectation: (float(expectation),),
            notes="Where no element is above 0 all are as likely. A NaN in a window gives NaN, plus "
            "infinity wins. The draw for an output depends on the seed and its place in the "
            "result alone, whatever the layout and the number of threads. "
            "Source: Zeiler and Fergus, Stochastic Pooling for Regularization of Deep "
            "Convolutional Neural Networks, https://arxiv.org/abs/1301.3557.",
            adaptive=False,
            random=True,
        ),
        Kind(
            "mixed",
            "mean",
            "A mixture of maximum and mean of every window.",
            "alpha * np.max(w) + (1 - alpha) * np.mean(w)",
            "NaN",
            (_ALPHA,),
            notes="Source: Lee, Gallagher and Tu, Generalizing Pooling Functions in Convolutional "
            "Neural Networks, https://arxiv.org/abs/1509.08985.",
            adaptive=False,
            composite=True,
        ),
    )
}
