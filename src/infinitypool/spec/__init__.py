"""Specs: what a pooling call means.

This is the one place that reads raw arguments, words the errors and computes output shapes.
Both fronts, the array functions and the PyTorch functions, hand their arguments to
:func:`pool_spec` or :func:`adaptive_spec` and receive a :class:`PoolSpec`, a frozen description of
the operation that is independent of any data. :meth:`PoolSpec.geometry` then answers the sizes.
:data:`KINDS` is the table of what a window can be reduced to.
:func:`norm_spec` does the same for normalisations, of which :data:`NORMS` is the table.

Everything is computed in exact Python integers, so sizes up to 2**62 give an answer or an
exception and never wrap around.
"""

from .kinds import KINDS, REQUIRED, Argument, Kind, Reduction
from .norm import (
    ACTIVATIONS,
    NORM_DTYPES,
    NORMS,
    Layout,
    NormKind,
    NormSpec,
    norm_spec,
    norm_spec_from_text,
    number,
)
from .pool import (
    Geometry,
    PoolSpec,
    adaptive_spec,
    dtype_of_offsets,
    output_shape,
    pool_spec,
    resolve_axes,
    spec_from_text,
)
from .reading import (
    NUMPY,
    TORCH,
    Front,
    article,
    check_bool,
    check_word,
    count,
    integer,
    real,
    show,
)
from .sizes import check_bytes, check_ratio, fractional_sizes, unpool_output_size

__all__ = [
    "ACTIVATIONS",
    "KINDS",
    "NORMS",
    "NORM_DTYPES",
    "NUMPY",
    "REQUIRED",
    "TORCH",
    "Argument",
    "Front",
    "Geometry",
    "Kind",
    "Layout",
    "NormKind",
    "NormSpec",
    "PoolSpec",
    "Reduction",
    "adaptive_spec",
    "article",
    "check_bool",
    "check_bytes",
    "check_ratio",
    "check_word",
    "count",
    "dtype_of_offsets",
    "fractional_sizes",
    "integer",
    "norm_spec",
    "norm_spec_from_text",
    "number",
    "output_shape",
    "pool_spec",
    "real",
    "resolve_axes",
    "show",
    "spec_from_text",
    "unpool_output_size",
]
