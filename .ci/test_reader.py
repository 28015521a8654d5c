"""prepare_digit and read_digit: what is read and what is refused."""

import io

import numpy as np
import pictures
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from submission import tagged
from PIL import Image
from scipy import ndimage


@pytest.mark.parametrize(
    "kind, wanted",
    [
        (pictures.photo, 0.98),
        (pictures.sheet, 0.95),
        (pictures.scanned, 0.95),
        (pictures.cropped, 0.95),
        (pictures.small, 0.95),
    ],
)
def test_kinds_are_read(kind, wanted, prepare_digit, mnist_arrays, model):
    images, labels = mnist_arrays["x_test"][:300], mnist_arrays["y_test"][:300]
    digits = []
    for i, image in enumerate(images):
        source = kind(image, np.random.default_rng([42, i]))
        digits.append(pictures.read(source, prepare_digit, model))
    right = (digits == labels).sum()
    assert right >= wanted * 300, f"{right} are read, {digits.count(-1)} are refused"


@pytest.mark.parametrize("gap", [4, 20, None])
def test_two_digits_are_refused(gap, prepare_digit, mnist_arrays, model):
    refused = 0
    for i in range(100):
        two = mnist_arrays["x_test"][2 * i : 2 * i + 2]
        source = pictures.pair(two, np.random.default_rng([42, i]), gap)
        refused += pictures.read(source, prepare_digit, model) == -1
    assert refused >= 95, f"{100 - refused} of 100 pairs of digits were taken for one"


@pytest.mark.parametrize("digit, wanted", [(0, 0.98), (1, 0.95), (7, 0.98)])
def test_drawn_digits_of_other_countries(digit, wanted, prepare_digit, model):
    right = 0
    for i in range(300):
        source = pictures.drawn(digit, np.random.default_rng([digit, i]))
        right += pictures.read(source, prepare_digit, model) == digit
    assert right >= wanted * 300, f"{right} of 300 drawn {digit}s are read"


DEEP = {"I;16": np.uint16, "I": np.int32, "F": np.float32}  # Pillow's modes over 8 bits
MODES = ["L", "LA", "RGB", "RGBA", "CMYK", "P", "1", *DEEP]
ANGLE_OF_FLAG = {1: 0, 3: 180, 6: 90, 8: 270}  # EXIF orientations


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(
    i=st.integers(0, 4),
    room=st.lists(st.integers(20, 200), min_size=4, max_size=4),
    dark_ink=st.booleans(),
    mode=st.sampled_from(MODES),
    flag=st.sampled_from(list(ANGLE_OF_FLAG)),
)
def test_mode_place_ink_and_orientation_do_not_matter(
    i, room, dark_ink, mode, flag, prepare_digit, mnist_arrays
):
    ink = pictures.written(
        mnist_arrays["x_test"][i], np.random.default_rng(0), side=200
    )
    levels = 0.05 + 0.85 * np.pad(ink, (room[:2], room[2:]))
    if dark_ink:
        levels = 1 - levels
    if mode in DEEP:
        stored = Image.fromarray((levels * 65535).astype(DEEP[mode]))
    else:
        stored = pictures.picture(levels).convert("RGB").convert(mode)
    stored = stored.rotate(ANGLE_OF_FLAG[flag], expand=True)
    stored.getexif()[pictures.EXIF_ORIENTATION] = flag
    result = prepare_digit(stored)
    assert (result.shape, result.dtype) == ((28, 28, 1), np.float32)
    assert result.min() >= 0
    assert 0.8 < result.max() <= 1
    mass = np.array(ndimage.center_of_mass(result[..., 0]))
    assert np.abs(mass - 14).max() < 0.6, "the centre of mass should be in the middle"
    assert np.abs(result - prepare_digit(1 - np.pad(ink, 60))).mean() < 0.045


@pytest.fixture
def a_page(mnist_arrays):
    """Ink (h, w) of the first test digit, a 7, with paper around it."""
    return pictures.page(mnist_arrays["x_test"][0], np.random.default_rng(0))


@pytest.fixture
def a_file(a_page, tmp_path):
    path = tmp_path / "a.png"
    pictures.picture(a_page).save(path)
    return path


def test_paths_bytes_and_open_files_give_the_same(prepare_digit, a_page, a_file):
    wanted = prepare_digit(pictures.picture(a_page))
    whole = a_file.read_bytes()
    for source in (a_file, str(a_file), whole, io.BytesIO(whole)):
        difference = np.abs(prepare_digit(source) - wanted).mean()
        assert difference < 0.01, f"{type(source)} gives another result"


def test_arrays_of_any_range_and_depth_give_the_same(prepare_digit, a_page):
    wanted = prepare_digit(pictures.picture(a_page))
    for source in (a_page, 255 * a_page, np.dstack([a_page] * 3)):
        difference = np.abs(prepare_digit(source) - wanted).mean()
        assert (
            difference < 0.01
        ), f"{source.shape}, up to {source.max()}, gives another result"


def test_missing_file(prepare_digit, tmp_path):
    with pytest.raises(FileNotFoundError, match="correct the path"):
        prepare_digit(tmp_path / "missing.png")


def test_file_that_is_cut_off(prepare_digit, a_file):
    whole = a_file.read_bytes()
    with pytest.raises(ValueError, match="complete picture"):
        prepare_digit(whole[: len(whole) // 2])


def test_file_that_is_too_large(prepare_digit, tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="complete picture"):
        prepare_digit(tmp_path / "large.png")


BAD_PICTURES = {
    "white": (np.full((100, 100), 255, np.uint8), "blank"),
    "black": (np.zeros((28, 28)), "blank"),
    "noise": (np.random.default_rng(0).random((200, 200)), "blank|marks"),
    "transparent": (Image.new("RGBA", (50, 50)), "blank"),
    "only a shadow": (np.tile(np.linspace(0.5, 1, 200), (150, 1)), "blank"),
    "no pixels": (np.zeros((0, 20)), "complete picture"),
    "NaN": (np.full((28, 28), np.nan), "NaN"),
    "infinity": (np.full((28, 28), np.inf), "infinity"),
    "None": (None, "complete picture"),
    "a list": ([[0, 1]], "complete picture"),
    "flat": (np.zeros(784), "complete picture"),
    "a batch": (np.zeros((1, 28, 28, 1)), "complete picture"),
    "five channels": (np.zeros((28, 28, 5)), "complete picture"),
    "texts": (np.array([["a"]]), "complete picture"),
    "other bytes": (b"seven", "complete picture"),
    "a data address": ("data:image/png;base64," + 9999 * "A", "address"),
    "a web address": ("https://example.org/7.png", "address"),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_bad_pictures_are_refused(kind, prepare_digit):
    source, reason = BAD_PICTURES[kind]
    with pytest.raises(ValueError, match=reason):
        prepare_digit(source)


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_refusals_are_short_and_say_what_to_do(kind, prepare_digit):
    source, _ = BAD_PICTURES[kind]
    with pytest.raises(ValueError, match="pass|write|crop|replace") as error:
        prepare_digit(source)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("threshold, ask", [(0.9, False), (1.1, True)])
def test_read_digit(threshold, ask, committed, prepare_digit, a_page, model):
    names = dict(
        np=np, model=model, prepare_digit=prepare_digit, THRESHOLDS={0.001: threshold}
    )
    exec(tagged(committed, "read"), names)
    digit, confidence, person = names["read_digit"](1 - a_page)
    assert digit == 7
    assert 0.99 < confidence <= 1
    assert person is ask
