"""The command ``image`` with every kind: values against direct calls, options, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import infinitypool as ip
from infinitypool.cli import kinds, main

ENTRIES = kinds.entries()
ADAPTIVE = [name for name, entry in ENTRIES.items() if entry.adaptive]
# A value for every argument that only some kinds have, unlike its default.
VALUES = {
    "p": 1.5, "eps": 90.0, "beta": 0.02, "q": 0.3, "method": "higher", "expectation": True,
    "alpha": 0.25,
}  # fmt: skip
OWN = [
    (name, argument) for name, kind in kinds.KINDS.items() for argument, *_ in kind.arguments
]  # fmt: skip
MODES = ["L", "RGBA", "I;16", "1", "I", "F"]
TOPS = {"L": 255, "RGBA": 255, "I;16": 65535, "1": 1, "I": (1 << 31) - 1}


def pixels_of(mode: str, seed: int = 7) -> np.ndarray:
    random = np.random.default_rng(seed)
    shape = (11, 14, 4) if mode == "RGBA" else (11, 14)
    if mode == "F":
        return random.standard_normal(shape).astype(np.float32)
    dtype = {"I;16": np.uint16, "I": np.int32}.get(mode, np.uint8)
    return random.integers(0, TOPS[mode], shape, dtype=dtype, endpoint=True)


def save(path, pixels: np.ndarray, mode: str) -> None:
    Image.fromarray(pixels.astype(bool) if mode == "1" else pixels).save(path)


def load(path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == mode
        return np.asarray(image).astype(np.uint8) if mode == "1" else np.asarray(image)


def direct(function: str, pixels: np.ndarray, mode: str, **arguments) -> np.ndarray:
    """The array function's result as a picture of the mode has it."""
    call = getattr(ip, function)
    try:
        values = call(pixels, axes=(0, 1), **arguments)
    except TypeError:
        wide = np.float64 if mode == "I" else np.float32
        values = call(pixels.astype(wide), axes=(0, 1), **arguments)
    if mode == "F":
        return values
    least = -(1 << 31) if mode == "I" else 0
    values = values.astype(np.longdouble)
    return np.clip(np.rint(values), least, TOPS[mode]).astype(pixels.dtype)


def pool(tmp_path, pixels: np.ndarray, mode: str, *arguments: str) -> np.ndarray:
    """What the command makes of the pixels."""
    source, target = tmp_path / "in.tiff", tmp_path / "out.tiff"
    save(source, pixels, mode)
    assert main(["image", str(source), "-o", str(target), *arguments]) == 0
    return load(target, mode)


def needed(name: str) -> dict:
    """Arguments without a default, beside the window's."""
    required = [a for a, default in ENTRIES[name].arguments.items() if default is kinds.REQUIRED]
    return {argument: VALUES[argument] for argument in required}


def words(arguments: dict) -> list[str]:
    found = []
    for name, value in arguments.items():
        found += [kinds.option(name)] if value is True else [kinds.option(name), str(value)]
    return found


def test_every_kind_is_offered():
    assert list(ENTRIES)[: len(kinds.KINDS)] == list(kinds.KINDS)
    assert {"blur", "fractional_max"} <= set(ENTRIES)
    assert set(VALUES) == {argument for _, argument in OWN}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ENTRIES)
def test_values(tmp_path, name, mode):
    pixels, given = pixels_of(mode), needed(name)
    line = [*words(given), "--op", name, "--kernel", "3"]
    if "rng" in ENTRIES[name].arguments:
        line += ["--seed", "5"]
        given["rng"] = 5
    if name == "fractional_max":
        line += ["--size", "5,6"]
        numbers = np.random.default_rng(given.pop("rng")).random(2)
        given["samples"] = np.broadcast_to(numbers, (*pixels.shape[2:], 2))
        given["output_size"] = (5, 6)
    else:
        line += ["--stride", "2,1"]
        given["stride"] = (2, 1)
    expected = direct(ENTRIES[name].functions[0], pixels, mode, kernel_size=3, **given)
    np.testing.assert_array_equal(pool(tmp_path, pixels, mode, *line), expected)


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_values(tmp_path, capsys, name, mode):
    pixels, given = pixels_of(mode), needed(name)
    got = pool(tmp_path, pixels, mode, *words(given), "--op", name, "--size", "4,5")
    expected = direct(ENTRIES[name].adaptive, pixels, mode, output_size=(4, 5), **given)
    np.testing.assert_array_equal(got, expected)
    assert f", adaptive_{name}, " in capsys.readouterr().out
    got = pool(tmp_path, pixels, mode, *words(given), "--op", name, "--size", "3")
    assert got.shape[:2] == (3, 3)


@pytest.mark.parametrize(("name", "argument"), OWN)
def test_own_arguments(tmp_path, name, argument):
    pixels = pixels_of("L")
    given = {**needed(name), argument: VALUES[argument]}
    plain = needed(name)
    if name == "stochastic":
        given["rng"] = plain["rng"] = 1
    line = ["--op", name, "--kernel", "3", *words(given)]
    expected = direct(ENTRIES[name].functions[0], pixels, "L", kernel_size=3, **given)
    np.testing.assert_array_equal(pool(tmp_path, pixels, "L", *line), expected)
    if argument not in plain:
        other = direct(ENTRIES[name].functions[0], pixels, "L", kernel_size=3, **plain)
        assert (expected != other).any()


@pytest.mark.parametrize("power", ["1", "inf"])
def test_a_norm_saturates(tmp_path, power):
    pixels = pixels_of("L")
    got = pool(tmp_path, pixels, "L", "--op", "lp", "--kernel", "2", "--p", power)
    wide = pixels[:10].astype(int).reshape(5, 2, 7, 2)
    expected = wide.max((1, 3)) if power == "inf" else np.minimum(wide.sum((1, 3)), 255)
    np.testing.assert_array_equal(got, expected)


def test_thirty_two_bits_are_kept(tmp_path):
    pixels = np.full((4, 4), (1 << 31) - 5, np.int32)  # float32 would make it 2**31
    np.testing.assert_array_equal(
        pool(tmp_path, pixels, "I", "--op", "mixed", "--kernel", "2"), pixels[:2, :2]
    )


def test_powers_that_leave_float32(tmp_path, capsys):
    pixels = np.full((4, 4), 200, np.uint8)
    got = pool(tmp_path, pixels, "L", "--op", "gem", "--kernel", "2", "--p", "40")
    np.testing.assert_array_equal(got, pixels[:2, :2])
    (tmp_path / "out.tiff").unlink()
    command = ["image", str(tmp_path / "in.tiff"), "-o", str(tmp_path / "out.tiff")]
    said = refused(capsys, [*command, "--op", "gem", "--kernel", "2", "--p", "400"])
    assert "gem_pool" in said and "infinite" in said and "mode L" in said
    assert not (tmp_path / "out.tiff").exists()


def test_windows_without_a_pixel(tmp_path, capsys):
    pixels = pixels_of("F")
    line = ["--op", "rms", "--kernel", "2", "--padding", "2"]
    got = pool(tmp_path, pixels, "F", *line)
    assert np.isnan(got[0]).all() and np.isfinite(got[1:-1, 1:-1]).all()
    save(tmp_path / "in.png", pixels_of("L"), "L")
    command = ["image", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), *line]
    assert "NaN" in refused(capsys, command)
    assert not (tmp_path / "out.png").exists()


def test_seeds(tmp_path):
    pixels = pixels_of("L")
    line = ["--op", "stochastic", "--kernel", "3", "--stride", "1"]
    first = pool(tmp_path, pixels, "L", *line, "--seed", "1")
    np.testing.assert_array_equal(pool(tmp_path, pixels, "L", *line, "--seed", "1"), first)
    assert (pool(tmp_path, pixels, "L", *line, "--seed", "2") != first).any()
    assert (pool(tmp_path, pixels, "L", *line) != pool(tmp_path, pixels, "L", *line)).any()


@pytest.mark.parametrize("way", [["--size", "6,7"], ["--ratio", "0.6,0.5"], ["--ratio", "0.5"]])
def test_fractional_windows_keep_grey_grey(tmp_path, way):
    grey = pixels_of("L")
    line = ["--op", "fractional_max", "--kernel", "2", "--seed", "3", *way]
    colours = pool(tmp_path, np.repeat(grey[..., None], 3, 2), "RGB", *line)
    assert (colours == colours[..., :1]).all()
    assert colours.shape[:2] == ((5, 7) if way[1] == "0.5" else (6, 7))
    np.testing.assert_array_equal(pool(tmp_path, grey, "L", *line), colours[..., 0])


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zeros"])
def test_blur(tmp_path, padding):
    pixels = pixels_of("RGBA")
    got = pool(tmp_path, pixels, "RGBA", "--op", "blur", "--padding", padding)
    expected = direct("blur_pool", pixels, "RGBA", padding=padding)
    np.testing.assert_array_equal(got, expected)


def refused(capsys, arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("infinitypool: ") and said.err.count("\n") == 1
    return said.err


def test_arguments_of_other_kinds(capsys):
    """Every argument with every kind that does not have it; the kind's own are named."""
    for name, entry in ENTRIES.items():
        for argument in kinds.own_options():
            if argument in entry.arguments:
                continue
            line = ["--op", name, *words({argument: VALUES.get(argument, 1)})]
            said = refused(capsys, ["image", "in.png", "-o", "out.png", "--kernel", "2", *line])
            assert f"{kinds.option(argument)}: {name} has no such argument" in said
            named = said.partition("its own are ")[2].strip()
            assert (named.split(", ") if named else []) == entry.options()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--op max --size 4 --kernel 2", "--size and --kernel exclude each other"),
        ("--op max --size 4 --stride 2", "--stride does not go with --size"),
        ("--op max --size 4 --padding 1", "--padding does not go with --size"),
        ("--op max --size 4 --dilation 2", "--dilation does not go with --size"),
        ("--op max --size 4 --ceil", "--ceil does not go with --size"),
        ("--op max --size 4 --q 0.5", "--q: max has no such argument; it has none of its own"),
        ("--op gem --kernel 2 --beta 1", "its own are --p, --eps"),
        ("--op mixed --size 4", "--size: mixed has no adaptive form; give --kernel"),
        ("--op stochastic --size 4", "--size: stochastic has no adaptive form"),
        ("--op blur --size 4", "--size: blur has no adaptive form"),
        ("--op blur --dilation 2", "its own are --kernel, --stride, --padding"),
        ("--op blur --padding mirror", "padding='mirror'"),
        ("--op max --kernel 2 --padding reflect", "--padding 'reflect'"),
        ("--op max", "Missing option '--kernel', or --size"),
        ("--op mixed", "Missing option '--kernel': mixed needs it"),
        ("--op quantile --kernel 2", "Missing option '--q': quantile needs it"),
        ("--op quantile --size 2", "Missing option '--q': quantile needs it"),
        ("--op quantile --kernel 2 --q 2", "q=2.0 must be from 0 to 1"),
        ("--op quantile --kernel 2 --q nan", "q=nan"),
        ("--op quantile --kernel 2 --q half", "--q"),
        ("--op quantile --kernel 2 --q 0.5 --method best", "method='best' must be one of"),
        ("--op lp --kernel 2 --p 0.5", "p=0.5 must be at least 1"),
        ("--op gem --kernel 2 --p 0", "p=0.0"),
        ("--op gem --kernel 2 --eps -1", "eps=-1.0"),
        ("--op log_sum_exp --kernel 2 --beta 0", "beta=0.0"),
        ("--op soft --kernel 2 --beta inf", "beta=inf"),
        ("--op mixed --kernel 2 --alpha 1.5", "alpha=1.5"),
        ("--op stochastic --kernel 2 --seed -1", "--seed '-1'"),
        ("--op stochastic --kernel 2 --seed 1,2", "--seed '1,2'"),
        ("--op stochastic --kernel 2 --seed one", "--seed 'one'"),
        ("--op fractional_max --kernel 2", "output_size and output_ratio"),
        ("--op fractional_max --size 4", "Missing option '--kernel'"),
        ("--op fractional_max --kernel 2 --size 4 --ratio 0.5", "exclude each other"),
        ("--op fractional_max --kernel 2 --ratio 2", "output_ratio"),
        ("--op fractional_max --kernel 2 --ratio half", "--ratio 'half'"),
        ("--op fractional_max --kernel 2 --size 4 --padding 1", "--size, --ratio, --seed"),
        ("--op fractional_max --kernel 9 --size 9", "output_size"),
        ("--size 0", "output_size=0"),
        ("--size -3", "output_size=-3"),
        ("--size 4,4,4", "output_size"),
        ("--size 4,", "--size '4,'"),
        ("--size 999999999999999999", "too large for 64 bits"),
        ("--size 1000000", "memory"),
        ("--op midian --kernel 2", "did you mean median?"),
        ("--op MAX --kernel 2", "--op 'MAX' is not one of max, "),
    ],
)
def test_refusals(tmp_path, capsys, line, said):
    save(tmp_path / "in.png", pixels_of("L"), "L")
    command = ["image", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    assert said in refused(capsys, [*command, *line.split()])
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]
