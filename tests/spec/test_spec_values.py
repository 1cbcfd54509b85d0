"""Output sizes: the values that the mission names, and brute-force counting of windows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitypool.spec import NUMPY, TORCH, output_shape, pool_spec, spec_from_text

TABLE = [
    # shape, kernel_size, options, result
    ((4, 4), 2, {}, (2, 2)),
    ((20, 16, 50, 32), 3, {"stride": 2}, (20, 16, 24, 15)),
    ((20, 16, 50, 32), (3, 2), {"stride": (2, 1)}, (20, 16, 24, 31)),
    ((224, 224), 2, {"stride": 2}, (112, 112)),
    ((224, 224), 3, {"stride": 2, "padding": 1}, (112, 112)),
    ((3, 201, 250), 6, {"stride": 2}, (3, 98, 123)),
    ((201, 250, 3), 6, {"stride": 2, "axes": (0, 1)}, (98, 123, 3)),
    ((6, 6), 3, {"stride": 2}, (2, 2)),
    ((6, 6), 3, {"stride": 2, "ceil_mode": True}, (3, 3)),
    ((572, 572), 2, {}, (286, 286)),
    ((9, 9), 3, {"dilation": 2, "stride": 1}, (5, 5)),
    # a last window that would start in the padding behind the input is dropped
    ((4,), (2,), {"stride": 3, "padding": ((1, 1),), "ceil_mode": True}, (2,)),
    ((3,), (2,), {"stride": 2, "padding": ((1, 1),), "ceil_mode": True}, (2,)),
    # ceil_mode takes one window that hangs over the end, however large
    ((3,), (4,), {"ceil_mode": True}, (1,)),
    # TensorFlow's words
    ((1, 13, 14, 3), 3, {"stride": 2, "padding": "same", "axes": (1, 2)}, (1, 7, 7, 3)),
    ((1, 13, 14, 3), 3, {"stride": 2, "padding": "SAME", "axes": (1, 2)}, (1, 7, 7, 3)),
    ((1, 13, 14, 3), 3, {"stride": 2, "padding": "valid", "axes": (1, 2)}, (1, 6, 6, 3)),
    ((5, 5), 7, {"stride": 1, "padding": "same"}, (5, 5)),
    # entries belong to the axes as given
    ((10, 20), (2, 5), {"axes": (1, 0)}, (2, 10)),
    ((10, 20), (2, 5), {"axes": (-1, -2)}, (2, 10)),
    ((7, 10), 3, {"axes": 1}, (7, 3)),
    ((7, 10), (3,), {}, (7, 3)),
    # one end only
    ((4,), (2,), {"stride": 1, "padding": ((1, 0),)}, (4,)),
    ((4,), (2,), {"stride": 1, "padding": ((0, 3),)}, (6,)),
    # nothing to pool, but nothing wrong either
    ((0, 3, 8, 8), 2, {}, (0, 3, 4, 4)),
    ((3, 0), (2,), {"stride": 1, "padding": ((1, 1),)}, (3, 1)),
    # exact far beyond 2**53
    ((2**62,), (2,), {"stride": 1}, (2**62 - 1,)),
    ((2**62 + 1,), (3,), {"stride": 2}, (2**61,)),
    ((2**62,), (2,), {"stride": 2**62}, (1,)),
]


@pytest.mark.parametrize("shape, kernel_size, options, expected", TABLE)
def test_table(shape, kernel_size, options, expected):
    assert output_shape(shape, kernel_size, **options) == expected


def test_same_puts_the_odd_element_behind():
    spec = pool_spec("f", "max", 3, stride=2, padding="same", axes=(-2, -1))
    geometry = spec.geometry((6, 7))
    assert geometry.output_size == (3, 4)
    assert geometry.padding_before == (0, 1)
    assert geometry.padding_after == (1, 1)


def starts_of_whole_windows(n, before, after, span, stride):
    """Found by trying: every stride-th place of the padded axis from which a window fits."""
    return [at for at in range(-before, n + after, stride) if at + span <= n + after]


def starts_with_ceil_mode(n, before, after, span, stride):
    """A window follows as long as the one a stride before it ends short of the padded end;
    the last is dropped if it starts behind the input."""
    places = range(-before, n + after + stride, stride)
    starts = [at for at in places if at - stride + span < n + after]
    return starts[:-1] if starts and starts[-1] >= n else starts


axis = {
    "n": st.integers(0, 12),
    "kernel": st.integers(1, 6),
    "stride": st.integers(1, 7),
    "before": st.integers(0, 7),
    "after": st.integers(0, 7),
    "dilation": st.integers(1, 3),
}


@pytest.mark.parametrize("ceil_mode", [False, True])
@given(**axis)
def test_sizes_against_counting(ceil_mode, n, kernel, stride, before, after, dilation):
    span = dilation * (kernel - 1) + 1
    count = starts_with_ceil_mode if ceil_mode else starts_of_whole_windows
    expected = len(count(n, before, after, span, stride))
    spec = pool_spec(
        "f",
        "max",
        (kernel,),
        stride=stride,
        padding=((before, after),),
        dilation=dilation,
        ceil_mode=ceil_mode,
        axes=(-1,),
    )
    if expected:
        assert spec.output_size((n,)) == (expected,)
    else:
        with pytest.raises(ValueError, match="larger than the padded input"):
            spec.output_size((n,))


@given(
    n=st.integers(1, 60), kernel=st.integers(1, 9), stride=st.integers(1, 9), d=st.integers(1, 3)
)
def test_same_covers_everything_with_the_least_padding(n, kernel, stride, d):
    spec = pool_spec("f", "max", (kernel,), stride=stride, padding="same", dilation=d, axes=(-1,))
    geometry = spec.geometry((n,))
    (out,), (before,), (after,) = (
        geometry.output_size, geometry.padding_before, geometry.padding_after,
    )  # fmt: skip
    span = d * (kernel - 1) + 1
    assert out == math.ceil(n / stride)
    assert after - before in (0, 1)
    end = (out - 1) * stride - before + span
    assert end <= n + after
    if before + after:
        assert end == n + after


sizes = st.lists(st.integers(1, 9), min_size=2, max_size=2)
paddings = st.one_of(
    st.integers(0, 1),
    st.lists(st.integers(0, 1), min_size=2, max_size=2),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=2),
    st.sampled_from(["same", "valid"]),
)


@given(
    kernel=st.lists(st.integers(2, 9), min_size=2, max_size=2),
    stride=st.none() | sizes,
    padding=paddings,
    dilation=sizes,
    ceil_mode=st.booleans(),
    include=st.booleans(),
    divisor=st.none() | st.integers(1, 2**40),
    front=st.sampled_from([NUMPY, TORCH]),
    reducer=st.sampled_from(["max", "min", "mean", "sum"]),
)
def test_text_round_trip(
    kernel, stride, padding, dilation, ceil_mode, include, divisor, front, reducer
):
    spec = pool_spec(
        "some_pool2d",
        reducer,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        count_include_pad=include,
        divisor_override=divisor,
        axes=(-2, -1),
        front=front,
    )
    assert spec_from_text(spec.text) == spec


GOOD_TEXT = "f reducer=max front=torch axes=-2,-1 kernel_size=2,2 stride=2,2 " + (
    "padding=0:0,0:0 dilation=1,1 pytorch_form"
)


@pytest.mark.parametrize(
    "word, other",
    [
        ("f reducer", "reducer"),
        ("front=torch", "front=nobody"),
        ("front=torch ", ""),
        ("kernel_size=2,2", "kernel_size=2,0"),
        ("kernel_size=2,2", "kernel_size=2"),
        ("kernel_size=2,2", "kernel_size=2,2.0"),
        ("axes=-2,-1", "axes=-1,-2"),
        ("axes=-2,-1", "axes=-2,-2"),
        ("padding=0:0,0:0", "padding=9:9,9:9"),
        ("padding=0:0,0:0", "padding=0:1,0:0"),
        ("dilation=1,1 ", ""),
        ("pytorch_form", "other_form"),
        ("pytorch_form", "a=b"),
        ("pytorch_form", "ceil_mode pytorch_form pytorch_form"),
        ("reducer=max", "reducer=max divisor_override=3"),
        (GOOD_TEXT, ""),
    ],
)
def test_other_texts_are_refused(word, other):
    spec_from_text(GOOD_TEXT)
    assert word in GOOD_TEXT
    text = GOOD_TEXT.replace(word, other)
    with pytest.raises(ValueError, match="not the text of a pooling spec"):
        spec_from_text(text)


@pytest.mark.parametrize(
    "kernel_size, expected",
    [
        ((16, 16), "uint8"),
        ((257,), "uint16"),
        ((256, 256), "uint16"),
        ((65537,), "uint32"),
        ((2**32,), "uint32"),
        ((2**32 + 1,), "uint64"),
    ],
)
def test_offsets_are_as_small_as_the_window_allows(kernel_size, expected):
    axes = tuple(range(-len(kernel_size), 0))
    assert pool_spec("f", "max", kernel_size, axes=axes).offset_dtype == expected
