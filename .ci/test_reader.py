"""prepare_digit and read_digit: what is read and what is refused."""

import io
import re
from typing import NamedTuple

import numpy as np
import pictures
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from submission import tagged
from PIL import Image, ImageDraw
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


def in_any_range(levels):
    """Grey levels (h, w), 0 to 1, in the ranges that programs use: {name: array}."""
    return {
        "0 to 1": levels,
        "0 to 16": np.round(16 * levels),
        "0 to 255": 255 * levels,
        "bytes": (255 * levels).astype(np.uint8),
        "bytes of 0 and 1": (levels > 0.5).astype(np.uint8),
        "true and false": levels > 0.5,
        "divided twice": (levels / 255).astype(np.float32),
        "signed bytes": (255 * levels - 128).astype(np.int8),
        "minus 1 to 1": 2 * levels - 1,
        "a list": levels.tolist(),
        "one channel": levels[..., np.newaxis],
    }


@pytest.mark.parametrize("kind", in_any_range(np.zeros((28, 28))))
def test_arrays_of_any_range_are_read(kind, prepare_digit, mnist_arrays, model):
    right = 0
    for i in range(30):
        source = in_any_range(mnist_arrays["x_test"][i] / 255)[kind]
        answer = pictures.read(source, prepare_digit, model)
        right += answer == mnist_arrays["y_test"][i]
    assert right >= 29, f"{right} of 30 arrays ({kind}) are read"


def test_tensors_are_read(prepare_digit, mnist_arrays):
    import tensorflow as tf

    image = mnist_arrays["x_test"][0]
    from_tensor = prepare_digit(tf.constant(image))
    np.testing.assert_array_equal(from_tensor, prepare_digit(image))


def test_missing_file(prepare_digit, tmp_path):
    with pytest.raises(FileNotFoundError, match="correct the path") as error:
        prepare_digit(tmp_path / "missing.png")
    assert tmp_path.name in str(error.value), "name the folder that was searched"


@pytest.mark.parametrize(
    "address", ["https://example.org/7.png", "data:image/png;base64," + 9999 * "A"]
)
def test_web_addresses(address, prepare_digit):
    with pytest.raises(FileNotFoundError, match="web address first") as error:
        prepare_digit(address)
    assert len(str(error.value)) < 500


def test_home_folder_and_quotation_marks(prepare_digit, a_file, monkeypatch):
    monkeypatch.setenv("HOME", str(a_file.parent))
    monkeypatch.setenv("USERPROFILE", str(a_file.parent))
    wanted = prepare_digit(a_file)
    for path in (f"~/{a_file.name}", f'"{a_file}"', f" '{a_file}' "):
        np.testing.assert_array_equal(prepare_digit(path), wanted)


def test_file_that_is_cut_off(prepare_digit, a_file):
    whole = a_file.read_bytes()
    with pytest.raises(ValueError, match="complete picture"):
        prepare_digit(whole[: len(whole) // 2])


def test_file_that_is_too_large(prepare_digit, tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="exceeds limit"):
        prepare_digit(tmp_path / "large.png")


def test_unknown_format(prepare_digit, tmp_path):
    (tmp_path / "photo.heic").write_bytes(b"no format that Pillow knows")
    with pytest.raises(ValueError, match="save one photo as JPEG or PNG"):
        prepare_digit(tmp_path / "photo.heic")


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_several_pictures_in_a_file(kind, prepare_digit, a_page):
    pages = [pictures.picture(a_page), pictures.picture(1 - a_page)]
    file = io.BytesIO()
    pages[0].save(file, kind, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="holds 2 pictures"):
        prepare_digit(file)


BAD_PICTURES = {
    "white": (np.full((100, 100), 255, np.uint8), "blank"),
    "black": (np.zeros((28, 28)), "blank"),
    "noise": (np.random.default_rng(0).random((200, 200)), "blank|marks|strokes"),
    "transparent": (Image.new("RGBA", (50, 50)), "blank"),
    "only a shadow": (np.tile(np.linspace(0.5, 1, 200), (150, 1)), "blank"),
    "no pixels": (np.zeros((0, 20)), "complete picture"),
    "NaN": (np.full((28, 28), np.nan), "run from nan to nan"),
    "infinity": (np.full((28, 28), np.inf), "run from inf to inf"),
    "one value": (np.full((28, 28), 7), "run from 7 to 7"),
    "None": (None, "complete picture"),
    "a short list": ([[0, 1]], "blank"),
    "flat": (np.zeros(784), "complete picture"),
    "a batch": (np.zeros((1, 28, 28, 1)), "one picture at a time"),
    "a batch without channels": (np.zeros((9, 28, 28)), "one picture at a time"),
    "five channels": (np.zeros((28, 28, 5)), "complete picture"),
    "texts": (np.array([["a"]]), "complete picture"),
    "other bytes": (b"seven", "complete picture"),
    "a dot": (pictures.dot(), "no pen strokes"),
    "one pixel high": (np.eye(200, 1), "1 × 200 pixels"),
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


@pytest.fixture(scope="module")
def read_digit(committed, prepare_digit, model):
    """read_digit, with a fixed threshold."""
    names = dict(
        np=np,
        NamedTuple=NamedTuple,
        model=model,
        prepare_digit=prepare_digit,
        val_confidence=np.array([0.983]),
    )
    exec(tagged(committed, "read"), names)
    return names["read_digit"]


def test_reading_has_named_fields(read_digit, a_page):
    reading = read_digit(1 - a_page)
    assert reading.digit == 7
    assert 0.99 < reading.confidence <= 1
    assert reading.ask_a_person is False


def test_reading_is_printed_as_a_sentence(read_digit, a_page):
    sentence = r"The digit is 7 \(confidence (99\.\d|100\.0)%\)\."
    assert re.fullmatch(sentence, str(read_digit(1 - a_page)))


def test_doubt_is_part_of_the_sentence(read_digit):
    reading = type(read_digit(np.eye(28)))(4, 0.6, True)
    assert str(reading).endswith("a person should look at it.")


def confidently_wrong(source, wanted, read_digit):
    """Whether a picture is read wrongly, without a person being asked."""
    try:
        digit, _, ask_a_person = read_digit(source)
    except ValueError:
        return False
    return digit != wanted and not ask_a_person


@pytest.mark.parametrize(
    "kind",
    [
        pictures.on_disc,
        pictures.in_ring,
        pictures.off_in_ring,
        pictures.tiny_in_ring,
        pictures.small_in_ring,
        pictures.on_small_disc,
        pictures.photo,
    ],
)
def test_digits_are_not_confidently_misread(kind, read_digit, mnist_arrays):
    wrong = 0
    for i in range(60):
        source = kind(mnist_arrays["x_test"][i], np.random.default_rng([1, i]))
        wrong += confidently_wrong(source, mnist_arrays["y_test"][i], read_digit)
    assert wrong <= 4, f"{wrong} of 60 are misread without doubt"


@pytest.mark.parametrize(
    "kind, wanted",
    [
        (pictures.on_disc, 54),
        (pictures.in_ring, 54),
        (pictures.on_small_disc, 45),
        (pictures.small_in_ring, 45),
    ],
)
def test_digits_on_discs_and_in_rings_are_read(
    kind, wanted, prepare_digit, mnist_arrays, model
):
    right = 0
    for i in range(60):
        source = kind(mnist_arrays["x_test"][i], np.random.default_rng([1, i]))
        answer = pictures.read(source, prepare_digit, model)
        right += answer == mnist_arrays["y_test"][i]
    assert right >= wanted, f"{right} of 60 are read"


@pytest.mark.parametrize("pen", [3, 6, 12])
def test_upright_one_from_a_thin_pen_is_framed(pen, prepare_digit):
    photo = Image.new("L", (750, 1000), 240)
    ImageDraw.Draw(photo).line([(375, 80), (375, 920)], fill=20, width=pen)
    image = prepare_digit(photo)
    rows = np.flatnonzero(image[..., 0].max(axis=1) > 0.05)
    assert 18 <= len(rows) <= 21, "the stem should be about 20 pixels high"
    np.testing.assert_allclose(ndimage.center_of_mass(image)[:2], (14, 14), atol=0.6)


@pytest.mark.parametrize("level", [255, 250, 230])
def test_light_pen_on_transparent_paper(level, prepare_digit, a_page):
    alpha = pictures.picture(a_page)
    drawing = Image.new("RGBA", alpha.size, (level, level, level))
    drawing.putalpha(alpha)
    difference = np.abs(prepare_digit(drawing) - prepare_digit(alpha)).mean()
    assert difference < 0.01


def test_two_digits_in_a_small_picture_are_refused(prepare_digit, mnist_arrays, model):
    refused = 0
    for i in range(60):
        two = mnist_arrays["x_test"][2 * i : 2 * i + 2]
        levels = pictures.pair(two, np.random.default_rng([1, i]), gap=20)
        source = pictures.picture(levels)
        source.thumbnail((36, 36))
        refused += pictures.read(source, prepare_digit, model) == -1
    assert refused >= 54, f"{60 - refused} of 60 pairs of digits were taken for one"


def test_digit_beside_a_pen_is_not_confidently_misread(read_digit, mnist_arrays):
    wrong = 0
    for i in range(60):
        ink = pictures.written(
            mnist_arrays["x_test"][i], np.random.default_rng([1, i]), side=120
        )
        levels = 1 - 0.9 * pictures.centred(ink, 240)
        levels[20:220, 10:30] = 0.1  # the pen
        wrong += confidently_wrong(levels, mnist_arrays["y_test"][i], read_digit)
    assert wrong <= 6, f"{wrong} of 60 are misread without doubt"


def test_most_letters_are_refused_or_doubtful(read_digit):
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ?&"
    wrong = 0
    for i, text in enumerate(3 * letters):
        source = pictures.letter(text, np.random.default_rng(i))
        wrong += confidently_wrong(source, None, read_digit)
    assert wrong <= 27, f"{wrong} of {3 * len(letters)} letters are read without doubt"
