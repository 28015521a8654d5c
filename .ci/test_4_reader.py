"""prepare_digit and read_digit: every kind of picture that is read, and every kind that is refused."""
import io

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from conftest import tagged

PAPERS, PENS = [(1, 1, 1), (0.97, 0.95, 0.88), (0.99, 0.93, 0.62)], [(0.08, 0.08, 0.1), (0.1, 0.16, 0.55), (0.75, 0.1, 0.12)]


def written(image, rng, side=None, level=None):
    """A digit (28, 28) uint8 as a pen writes it, a little turned: ink (h, w), 0 to 1, cropped to it."""
    side, level = side or int(rng.integers(60, 280)), level or rng.uniform(0.22, 0.5)
    turned = PIL.Image.fromarray(image).rotate(rng.uniform(-8, 8), PIL.Image.Resampling.BICUBIC).resize((side, side))
    ink = ndimage.gaussian_filter(np.asarray(turned) / 255, 0.02 * side)
    ink = np.clip(0.5 + 5 * (ink - level * ink.max()), 0, 1)
    return ink[ndimage.find_objects((ink > 0.3).astype(int))[0]]


def page(image, rng, **pen):
    ink = written(image, rng, **pen)
    return np.pad(ink, (rng.uniform(0.15, 0.5, (2, 2)) * max(ink.shape)).astype(int))


def picture(levels):
    return PIL.Image.fromarray((255 * np.clip(levels, 0, 1)).astype(np.uint8))


def colored(ink, rng, paper=None, pen=None):
    paper, pen = np.array(paper or PAPERS[rng.integers(3)]), np.array(pen or PENS[rng.integers(3)])
    return paper + ink[..., np.newaxis] * (pen - paper)


def photo(image, rng):
    """Any ink on any paper, or chalk; a lamp to one side, a shadow, noise, JPEG, an orientation flag: bytes."""
    ink, file, exif = page(image, rng, side=int(rng.integers(40, 600))), io.BytesIO(), PIL.Image.Exif()
    levels = colored(ink, rng, *[(0.12, 0.18, 0.15), (0.92, 0.92, 0.88)][:2 * (rng.random() < 0.2)])
    (y, x), angle = np.mgrid[-0.5:0.5:ink.shape[0] * 1j, -0.5:0.5:ink.shape[1] * 1j], rng.uniform(0, 2 * np.pi)
    edge = (np.cos(angle) * x + np.sin(angle) * y - rng.uniform(-0.4, 0.4)) / rng.uniform(0.01, 0.15)
    light = rng.uniform(0.6, 1) * (1 - rng.uniform(0, 0.4) * (x + 0.5)) * (1 - rng.uniform(0, 0.5) / (1 + np.exp(-edge)))
    levels = levels * light[..., np.newaxis] + rng.normal(0, rng.uniform(0, 0.03), levels.shape)
    exif[0x0112] = 6
    picture(levels).transpose(PIL.Image.Transpose.ROTATE_90).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


def sheet(image, rng):
    ink = page(image, rng)
    room = (rng.uniform(0.1, 0.4, (2, 2)) * max(ink.shape)).astype(int)
    seen, table = np.pad(np.ones(ink.shape), room)[..., np.newaxis], rng.uniform(0.05, 0.4, 3)
    levels = seen * np.pad(colored(ink, rng), [*room, (0, 0)]) + (1 - seen) * table
    return picture(np.clip(ndimage.rotate(levels, rng.uniform(-8, 8), reshape=False, mode="nearest", order=1), 0, 1))


def scanned(image, rng):
    ink = page(image, rng)
    edges = rng.permutation([1, *rng.integers(0, 2, 3)]) * (1 + rng.uniform(0.03, 0.1, 4) * len(ink)).astype(int)
    return np.pad(1 - 0.9 * ink, edges.reshape(2, 2), constant_values=0.1)


def cropped(image, rng):
    """A bold digit without any paper around it; every second one is drawn in one colour on nothing."""
    ink = written(image, rng, level=rng.uniform(0.15, 0.3))
    return picture(1 - 0.9 * ink if rng.random() < 0.5 else np.dstack([0.3 + np.zeros((*ink.shape, 3)), ink]))


def pair(images, rng, gap):
    """Two digits side by side, so many pixels apart; None: pushed together until they touch."""
    left, right = (np.pad(ink, ((0, 200 - len(ink)), (0, 0))) for ink in (written(image, rng, 200, 0.35) for image in images))
    for gap in range(0, -200, -1) if gap is None else [gap]:
        both = [np.pad(left, ((0, 0), (0, right.shape[1] + gap))), np.pad(right, ((0, 0), (left.shape[1] + gap, 0)))]
        if (np.minimum(*both) > 0.5).sum() > 1:
            break
    return 1 - 0.9 * np.pad(np.maximum(*both), 40)


def small(image, rng):
    return PIL.Image.fromarray(image).crop((4, 4, 24, 24)).resize([int(rng.integers(8, 36))] * 2)


def drawn(digit, rng):
    """A 1 with an upstroke, half of them with a base line; a 7, half of them crossed; an open 0: grey levels (h, w)."""
    image, pen, slant = PIL.Image.new("L", (360, 360), 240), int(rng.integers(8, 26)), rng.uniform(-0.05, 0.3)
    length, angle, foot, bar = rng.uniform(0.2, 0.7), np.radians(rng.uniform(28, 65)), rng.uniform(-0.5, -0.1), rng.uniform(0.4, 0.6)
    lines = {1: [[(0, 1), (0, 0), (-length * np.sin(angle), length * np.cos(angle))], [(-0.25, 1), (0.25, 1)]],
             7: [[(-rng.uniform(0.5, 0.75), rng.uniform(-0.05, 0.08)), (0, 0), (foot, 1)], [(bar * foot - 0.2, bar), (bar * foot + 0.2, bar)]],
             0: [[(0.35 * np.sin(turn) - 0.2, 0.5 - 0.5 * np.cos(turn)) for turn in np.linspace(length, 6.3)]]}
    for line in lines[digit][:rng.integers(1, 3)]:
        points = [(200 + 200 * (x - slant * (y - 0.5)), 80 + 200 * y) for x, y in line]
        PIL.ImageDraw.Draw(image).line(points, fill=30, width=pen, joint="curve")
    return np.asarray(image.resize([int(rng.integers(80, 360))] * 2))


def read(picture, prepare_digit, model):
    try:
        return int(model(prepare_digit(picture)[np.newaxis], training=False).numpy().argmax())
    except ValueError:
        return -1


@pytest.mark.parametrize("kind, wanted", [(photo, 0.98), (sheet, 0.95), (scanned, 0.95), (cropped, 0.95), (small, 0.95)])
def test_kinds_are_read(kind, wanted, prepare_digit, mnist_arrays, model):
    digits = [read(kind(mnist_arrays["x_test"][i], np.random.default_rng([42, i])), prepare_digit, model) for i in range(300)]
    right = (digits == mnist_arrays["y_test"][:300]).sum()
    assert right >= wanted * 300, f"only {right} of 300 are read, {digits.count(-1)} were refused"


@pytest.mark.parametrize("gap, wanted", [(4, 95), (20, 95), (None, 95)])
def test_two_digits_are_refused(gap, wanted, prepare_digit, mnist_arrays, model):
    refused = sum(read(pair(mnist_arrays["x_test"][2 * i:2 * i + 2], np.random.default_rng([42, i]), gap), prepare_digit, model) == -1 for i in range(100))
    assert refused >= wanted, f"{100 - refused} of 100 pairs of digits were taken for one"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(i=st.integers(0, 4), room=st.lists(st.integers(20, 200), min_size=4, max_size=4), dark_ink=st.booleans(),
       mode=st.sampled_from(["L", "LA", "RGB", "RGBA", "CMYK", "P", "1", "I;16", "I", "F"]), flag=st.sampled_from([1, 3, 6, 8]))
def test_mode_size_place_ink_and_orientation_do_not_matter(i, room, dark_ink, mode, flag, prepare_digit, mnist_arrays):
    ink = written(mnist_arrays["x_test"][i], np.random.default_rng(0), 200)
    levels = np.pad(ink, (room[:2], room[2:]))
    levels = 0.95 - 0.85 * levels if dark_ink else 0.05 + 0.85 * levels
    deep = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    stored = PIL.Image.fromarray((levels * 65535).astype(deep[mode])) if mode in deep else picture(levels).convert("RGB").convert(mode)
    stored = stored.rotate({1: 0, 3: 180, 6: 90, 8: 270}[flag], expand=True)
    stored.getexif()[0x0112] = flag
    result = prepare_digit(stored)
    assert result.shape == (28, 28, 1) and result.dtype == np.float32 and 0 <= result.min() and 0.8 < result.max() <= 1
    assert np.abs(np.array(ndimage.center_of_mass(result[..., 0])) - 14).max() < 0.6, "the mass should be in the middle"
    assert np.abs(result - prepare_digit(1 - np.pad(ink, 60))).mean() < 0.045


def test_sources(prepare_digit, mnist_arrays, tmp_path):
    """A path, bytes, an open file, arrays of several types: all give the same; a missing, huge or cut file, an error."""
    levels = page(mnist_arrays["x_test"][0], np.random.default_rng(0))
    picture(levels).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), whole, io.BytesIO(whole), levels, 255 * levels, np.dstack([levels] * 3)):
        assert np.abs(prepare_digit(source) - prepare_digit(picture(levels))).mean() < 0.01, f"{type(source)} gives another result"
    with pytest.raises(FileNotFoundError, match="correct the path"):
        prepare_digit(tmp_path / "missing.png")
    PIL.Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    for bad in (tmp_path / "bomb.png", whole[:len(whole) // 2]):
        with pytest.raises(ValueError, match="whole picture"):
            prepare_digit(bad)


@pytest.mark.parametrize("bad, says", [
    (np.full((100, 100), 255, np.uint8), "blank"), (np.zeros((28, 28)), "blank"), (np.random.default_rng(0).random((200, 200)), "blank|marks"),
    (PIL.Image.new("RGBA", (50, 50)), "blank"), (np.tile(np.linspace(0.5, 1, 200), (150, 1)), "blank"), (np.zeros((0, 20)), "whole"),
    (np.full((28, 28), np.nan), "NaN"), (np.full((28, 28), np.inf), "NaN"), (None, "whole"), ([[0, 1]], "whole"), (np.zeros(784), "whole"),
    (np.zeros((1, 28, 28, 1)), "whole"), (np.zeros((28, 28, 5)), "whole"), (np.array([["a"]]), "whole"), (b"seven", "whole"),
    ("data:image/png;base64," + 9999 * "A", "address"), ("https://example.org/7.png", "address")])
def test_bad_pictures(bad, says, prepare_digit):
    with pytest.raises(ValueError, match=says) as error:
        prepare_digit(bad)
    assert len(str(error.value)) < 400 and any(word in str(error.value) for word in ("pass", "write", "crop", "replace"))


def test_read_digit(committed, prepare_digit, mnist_arrays, model):
    for threshold in (0.9, 1.1):
        names = dict(np=np, model=model, prepare_digit=prepare_digit, THRESHOLDS={0.001: threshold})
        exec(tagged(committed, "read"), names)
        digit, confidence, person = names["read_digit"](1 - page(mnist_arrays["x_test"][0], np.random.default_rng(0)))
        assert digit == 7 and 0.99 < confidence <= 1 and person is (threshold > 1)
