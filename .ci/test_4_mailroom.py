"""Sections 7.6 and 10, by the notebook's own functions, taken from its cells by tag: any picture of a digit, bad pictures, refusal."""
import io
import math
import os
import re
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest

from conftest import MODEL, REPO, all_text, code_cells, read_notebook, NOTEBOOK, table, tagged, texts

MODES = ["L", "LA", "RGB", "RGBA", "CMYK", "P", "1", "I;16", "I", "F"]
SLOW = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
NOTEBOOK_NOW = read_notebook(REPO / NOTEBOOK)
NAMES = dict(np=np, math=math, os=os, io=io, Path=Path, PIL=PIL, warnings=warnings, ndimage=ndimage, NamedTuple=NamedTuple,
             softmax=softmax, minimize_scalar=minimize_scalar, binomtest=binomtest)
for tag in ("prepare", "photograph"):
    exec(tagged(NOTEBOOK_NOW, tag), NAMES)
prepare_digit = NAMES["prepare_digit"]


@pytest.fixture(scope="session")
def model():
    from tensorflow import keras

    return keras.models.load_model(REPO / MODEL)


@pytest.fixture(scope="session")
def validation(mnist_arrays):
    """The validation images (n, 28, 28) uint8 and labels, by the notebook's own split."""
    from sklearn.model_selection import StratifiedGroupKFold

    names = {"np": np, "StratifiedGroupKFold": StratifiedGroupKFold, "x_train_raw": mnist_arrays["x_train"], "y_train_raw": mnist_arrays["y_train"]}
    source = next(cell.source for cell in code_cells(NOTEBOOK_NOW) if "SPLIT_SEED =" in cell.source)
    exec(source.split("split_counts")[0], names)
    return names["x_train_raw"][names["val_rows"]], names["y_val"]


def page(image, width=280, height=280, share=0.7, place=(0.5, 0.5)):
    """A clean picture (height, width), 0 to 1, of a digit (28, 28) in ink 1 on paper 0; place: of what is free, from the left and top."""
    side = round(share * min(width, height) * 28 / 20)
    digit = PIL.Image.fromarray(image).crop((4, 4, 24, 24)).resize((round(side * 20 / 28),) * 2, PIL.Image.Resampling.BICUBIC)
    sheet = PIL.Image.new("L", (width, height))
    sheet.paste(digit, tuple(round(p * (n - digit.width)) for p, n in zip(place, (width, height))))
    return np.asarray(sheet) / 255


def as_mode(ink, mode, dark_ink=True):
    """A picture (h, w), 1 is ink, as a PIL image of this mode."""
    levels = 1 - 0.9 * ink if dark_ink else 0.05 + 0.9 * ink
    if mode == "I;16":
        return PIL.Image.fromarray((65535 * levels).astype(np.uint16))
    if mode == "I":
        return PIL.Image.fromarray((65535 * levels).astype(np.int32))
    if mode == "F":
        return PIL.Image.fromarray(levels.astype(np.float32))
    grey = PIL.Image.fromarray((255 * levels).astype(np.uint8))
    return grey.convert("1", dither=PIL.Image.Dither.NONE) if mode == "1" else grey.convert("RGB").convert(mode)


def turned(picture, flag):
    """The picture as a camera stores it that was held another way: its pixels moved, and the flag that says so."""
    way = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}.get(flag)
    stored = picture.transpose(PIL.Image.Transpose[way]) if way else picture.copy()
    stored.getexif()[0x0112] = flag
    return stored


def is_prepared(result):
    ink = result[..., 0]
    assert result.shape == (28, 28, 1) and result.dtype == np.float32 and 0 <= result.min() and 0.8 < result.max() <= 1
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis=axis)) for axis in (1, 0))
    assert 17 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21, "the longer side should fill about 20 pixels"
    assert np.abs(np.array(ndimage.center_of_mass(ink)) - 14).max() < 0.6, "the centre of mass should be in the middle"


def same(first, second, mean=0.03):
    """Nearly the same prepared digit: little difference on average."""
    return np.abs(first - second).mean() < mean


@settings(max_examples=60, **SLOW)
@given(data=st.data())
def test_every_mode_size_polarity_and_orientation(data, mnist_arrays):
    image = mnist_arrays["x_test"][data.draw(st.integers(0, 300))]
    width, height = (data.draw(st.integers(100, 900)) for _ in range(2))
    share, place = data.draw(st.floats(0.5, 0.8)), [data.draw(st.floats(0.05, 0.95)) for _ in range(2)]
    picture = as_mode(page(image, width, height, share, place), data.draw(st.sampled_from(MODES)), data.draw(st.booleans()))
    result = prepare_digit(turned(picture, data.draw(st.integers(1, 8))))
    is_prepared(result)
    assert same(result, prepare_digit(page(image)), 0.045)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dark_ink", [True, False])
def test_every_mode(mode, dark_ink, mnist_arrays):
    for image in mnist_arrays["x_test"][:5]:
        result = prepare_digit(as_mode(page(image), mode, dark_ink))
        is_prepared(result)
        assert same(result, prepare_digit(page(image)))


@pytest.mark.parametrize("shape", [(8, 8), (20, 20), (28, 28), (40, 60), (2000, 1500), (1000, 100)])
def test_every_size(shape, mnist_arrays, model):
    images = mnist_arrays["x_test"][:20]
    share = 1.0 if min(shape) < 28 else 0.7
    prepared = np.stack([prepare_digit(page(image, *shape[::-1], share=share)) for image in images])
    assert (model.predict(prepared, verbose=0).argmax(axis=1) == mnist_arrays["y_test"][:20]).mean() >= 0.9


@pytest.mark.parametrize("change", [
    lambda a: a, lambda a: 1 - a, lambda a: 255 * a, lambda a: (255 * a).astype(np.uint8), lambda a: (65535 * a).astype(np.uint16),
    lambda a: (1000 * a).astype(np.int32), lambda a: a > 0.5, lambda a: a.astype(np.float16), lambda a: a[..., np.newaxis], lambda a: np.dstack([a] * 3),
    lambda a: 2 * a - 1, lambda a: np.dstack([a, np.ones_like(a)]), lambda a: np.dstack([0 * a, a]), lambda a: np.dstack([a, a, a, np.ones_like(a)]),
    lambda a: np.dstack([0 * a, 0 * a, 0 * a, a]), lambda a: np.dstack([0 * a + 1] * 3 + [a]), lambda a: np.asfortranarray(a), lambda a: a[::-1][::-1]])
def test_every_kind_of_array(change, mnist_arrays):
    for image in mnist_arrays["x_test"][:4]:
        array = change(page(image))
        before = array.copy()
        assert same(prepare_digit(array), prepare_digit(page(image)))
        assert np.array_equal(array, before), "the array that was passed has been changed"


def test_mnist_stays_mnist(mnist_arrays, model):
    """MNIST's own digits come back nearly as they were, and are read nearly as well."""
    images, labels = mnist_arrays["x_train"][:400], mnist_arrays["y_train"][:400]
    prepared = np.stack([prepare_digit(image) for image in images])
    assert np.abs(prepared[..., 0] - images / 255).mean() < 0.04
    assert (model.predict(prepared, verbose=0).argmax(axis=1) == labels).mean() >= 0.985


@settings(max_examples=40, **SLOW)
@given(data=st.data())
def test_paper_place_and_scale_do_not_matter(data, mnist_arrays):
    image = mnist_arrays["x_test"][data.draw(st.integers(0, 300))]
    size = data.draw(st.integers(150, 700))
    ink = page(image, size, size, data.draw(st.floats(0.4, 0.75)), [data.draw(st.floats(0.05, 0.95)) for _ in range(2)])
    paper = np.array([data.draw(st.floats(0.7, 1)) for _ in range(3)])
    pen = np.array([data.draw(st.floats(0, 0.35)) for _ in range(3)])
    along = np.linspace(0, 1, size)
    shade = 1 - data.draw(st.floats(0, 0.5)) * (along[:, np.newaxis] if data.draw(st.booleans()) else along)
    shadow = np.where(along < data.draw(st.floats(0, 1)), 1 - data.draw(st.floats(0, 0.5)), 1)
    photo = (shade * shadow * np.ones((size, size)))[..., np.newaxis] * (paper + ink[..., np.newaxis] * (pen - paper))
    result = prepare_digit(1 - photo if data.draw(st.booleans()) else photo)
    is_prepared(result)
    assert same(result, prepare_digit(page(image)), 0.05)


def test_files(mnist_arrays, tmp_path):
    picture = as_mode(page(mnist_arrays["x_test"][0]), "L")
    wanted = prepare_digit(picture)
    for name in ("a.png", "a.jpg", "a.bmp", "a.gif", "a.tif", "a.webp"):
        picture.save(tmp_path / name)
        assert same(prepare_digit(tmp_path / name), wanted) and same(prepare_digit(str(tmp_path / name)), wanted), name
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for name in ("b.jpg", "b.png", "b.tif"):
        picture.transpose(PIL.Image.Transpose.ROTATE_90).save(tmp_path / name, exif=exif)
        assert same(prepare_digit(tmp_path / name), wanted), f"{name}: the orientation flag was not heeded"


# bad pictures

def noisy(rng):
    return rng.random((200, 200))


@pytest.mark.parametrize("make, says", [
    (lambda: np.full((100, 100), 255, np.uint8), "blank"), (lambda: np.zeros((100, 100)), "blank"), (lambda: np.ones((1, 1)), "blank"),
    (lambda: PIL.Image.new("RGB", (200, 100), (200, 30, 30)), "blank"), (lambda: PIL.Image.new("RGBA", (50, 50), (0, 0, 0, 0)), "transparent"),
    (lambda: np.random.default_rng(0).random((200, 200)), "noise"), (lambda: np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8), "noise"),
    (lambda: np.where(np.random.default_rng(0).random((100, 100)) < 0.05, 0, 255), "noise"),
    (lambda: np.zeros((0, 20)), "no pixels"), (lambda: np.zeros((20, 0, 3), np.uint8), "no pixels"), (lambda: np.full((28, 28), np.nan), "NaN"),
    (lambda: np.full((28, 28), np.inf), "infinite"), (lambda: np.full((28, 28), 1e300), "infinite"),
    (lambda: None, "NoneType"), (lambda: 7, "int"), (lambda: [[0, 1], [1, 0]], "list"), (lambda: b"digit", "bytes"), (lambda: {}, "dict"),
    (lambda: np.array([["a", "b"]]), "numbers"), (lambda: np.zeros((28, 28), complex), "numbers"), (lambda: np.array(None), "numbers"),
    (lambda: np.zeros(784), "shape"), (lambda: np.zeros((1, 28, 28, 1)), "shape"), (lambda: np.zeros((28, 28, 5)), "shape"), (lambda: np.float32(3), "shape"),
    (lambda: np.broadcast_to(np.uint8(0), (100_000, 100_000)), "smaller"),
    (lambda: np.where(np.indices((200, 200)).sum(axis=0) // 20 % 2, 0, 255), "whole|noise|blank"),
    (lambda: np.where(np.arange(200)[:, np.newaxis] < 100, 0, 255) * np.ones((1, 200)), "whole|blank"),
])
def test_bad_pictures(make, says):
    with pytest.raises(ValueError, match=says) as error:
        prepare_digit(make())
    assert re.search(r"take|pass|draw|crop|make|replace|leave|is a path|are numbers", str(error.value), re.I), f"'{error.value}' does not say what to do"


@settings(max_examples=60, **SLOW)
@given(data=st.data())
def test_a_blank_page_is_never_a_digit(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    height, width = (data.draw(st.integers(40, 500)) for _ in range(2))
    y, x = np.mgrid[:height, :width] / max(height, width)
    lamp = (x - data.draw(st.floats(-0.5, 1.5))) ** 2 + (y - data.draw(st.floats(-0.5, 1.5))) ** 2
    sheet = data.draw(st.floats(0.1, 1)) * (1 - data.draw(st.floats(0, 0.35)) * lamp) + rng.normal(0, data.draw(st.floats(0, 0.05)), (height, width))
    with pytest.raises(ValueError):
        prepare_digit(PIL.Image.fromarray((255 * np.clip(sheet, 0, 1)).astype(np.uint8)))


def test_shadows_on_an_empty_page_are_not_digits(model):
    """300 empty pages under the lamp and shadow of the notebook's photos, every second one with another shadow."""
    prepared = []
    for i in range(300):
        rng = np.random.default_rng([21, i])
        height, width = (int(np.exp(rng.uniform(np.log(60), np.log(900)))) for _ in range(2))
        light = NAMES["resized"](NAMES["lighting"](rng), height, width)
        if i % 2:
            light = light * NAMES["resized"](NAMES["lighting"](rng), height, width)
        sheet = light[..., np.newaxis] * rng.choice(NAMES["PAPERS"]) + rng.normal(0, rng.uniform(0, 0.03), (height, width, 1))
        try:
            prepared.append(prepare_digit(PIL.Image.fromarray((255 * np.clip(sheet, 0, 1)).astype(np.uint8))))
        except ValueError:
            continue
    confident = (model.predict(np.stack(prepared), verbose=0).max(axis=1) >= 0.9).sum() if prepared else 0
    assert len(prepared) <= 3 and confident == 0, f"{len(prepared)} empty pages are taken for digits, {confident} of them read with confidence"


@pytest.mark.parametrize("draw", [
    lambda ink: np.dstack([np.where(np.arange(280) < 140, 0.9, 0.1) * np.ones_like(ink), 0 * ink, 0.2 + 0 * ink, ink]),  # two colours, no paper
    lambda ink: np.dstack([0 * ink, 0 * ink, 0.6 + 0 * ink, 0.4 * ink]),  # a pen of 40 % opacity
    lambda ink: np.dstack([0.9 + 0 * ink, 0.9 + 0 * ink, 0.9 + 0 * ink, 1 - ink]),  # cut out of light paper
    lambda ink: np.dstack([np.dstack([1 - 0.2 * ink] * 3), np.hypot(*np.mgrid[-1:1:280j, -1:1:280j]) < 1.25]),  # faint pencil, corners see-through
    lambda ink: np.dstack([np.dstack([1 - 0.8 * ink] * 3), np.hypot(*np.mgrid[-1:1:280j, -1:1:280j]) < 1.1]),
    lambda ink: np.dstack([np.dstack([1 - 0.8 * ink] * 3), 0.5 + 0 * ink]),  # paper of 50 % opacity
])
def test_transparent_drawings(draw, mnist_arrays):
    for image in mnist_arrays["x_test"][:6]:
        ink = page(image)
        drawing = draw(ink)
        wanted = prepare_digit(ink)
        assert same(prepare_digit(drawing), wanted)
        assert same(prepare_digit(PIL.Image.fromarray((255 * drawing).astype(np.uint8))), wanted)


def test_large_photos_are_reduced(mnist_arrays):
    """A photo of 36 million pixels is read, and as the small one is."""
    small = as_mode(page(mnist_arrays["x_test"][0], 600, 600), "RGB")
    assert same(prepare_digit(small.resize((6000, 6000))), prepare_digit(small))


def test_several_digits(mnist_arrays):
    images = mnist_arrays["x_test"]
    refused = 0
    for i in range(40):
        pair = np.hstack if i % 2 else np.vstack
        try:
            prepare_digit(pair([images[i], images[i + 40]]))
        except ValueError as error:
            refused += "several" in str(error)
    assert refused >= 39, f"only {refused} of 40 pairs of digits were noticed"


def test_scribbles_cover_the_picture():
    rng = np.random.default_rng(0)
    for density in (0.5, 0.8):
        sheet = ndimage.gaussian_filter(rng.random((300, 300)), 4)
        with pytest.raises(ValueError):
            prepare_digit(np.where(sheet > np.quantile(sheet, 1 - density), 0, 255).astype(np.uint8))


def test_bad_files(tmp_path, mnist_arrays, monkeypatch):
    for missing in (tmp_path / "missing.png", "~nobody-of-this-name/a.png", "a" * 5000, str(tmp_path / "a\0b")):
        with pytest.raises(FileNotFoundError, match="no file"):
            prepare_digit(missing)
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    picture = as_mode(page(mnist_arrays["x_test"][0]), "RGB")
    for name in ("cut.jpg", "cut.png", "cut.tif"):
        picture.save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-len((tmp_path / name).read_bytes()) // 2])
    for name in ("text.png", "empty.png", "cut.jpg", "cut.png", "cut.tif", "."):
        with pytest.raises(ValueError, match="cannot be read as a picture"):
            prepare_digit(tmp_path / name)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="permissions"):
        patch.setattr(PIL.Image, "open", lambda path: (_ for _ in ()).throw(PermissionError("not yours")))
        prepare_digit(tmp_path / "text.png")
    for side in (9_500, 20_000):  # 90 and 400 million pixels in a small file
        PIL.Image.new("1", (side, side)).save(tmp_path / "bomb.png")
        with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match="smaller"):
            prepare_digit(tmp_path / "bomb.png")


# the committed numbers

def test_photos(model, mnist_arrays):
    """1,000 photos of test digits: at least 98.5 % are read, and the notebook says how many."""
    names = NAMES | {"x_test_raw": mnist_arrays["x_test"], "SEED": 42}
    source = next(cell.source for cell in code_cells(NOTEBOOK_NOW) if cell.id == "photo-score")
    exec(source.split("\n\n\nwith ")[0], names)
    with ThreadPoolExecutor() as pool:
        photos = list(pool.map(names["prepared_photo"], range(1000)))
    readable = [i for i, photo in enumerate(photos) if not isinstance(photo, ValueError)]
    read = model.predict(np.stack([photos[i] for i in readable]), verbose=0).argmax(axis=1)
    right = int((read == mnist_arrays["y_test"][readable]).sum())
    stated = float(re.search(r"photos: ([\d.]+)% of 1,000", all_text(NOTEBOOK_NOW))[1])
    assert right >= 985 and abs(right / 10 - stated) <= 0.3, f"{right} of 1,000 photos are read, the notebook says {stated} %"


def test_other_handwriting(model):
    from sklearn.datasets import load_digits

    digits = load_digits()
    with ThreadPoolExecutor() as pool:
        prepared = np.stack(list(pool.map(prepare_digit, digits.images)))
    accuracy = (model.predict(prepared, batch_size=500, verbose=0).argmax(axis=1) == digits.target).mean()
    assert f"other handwriting: {accuracy:.2%} of 1,797" in all_text(NOTEBOOK_NOW)


def test_refusal_table(model, validation, mnist_arrays):
    """Thresholds, refusals, errors and parcels, computed anew."""
    images, labels = validation
    prob = {"validation": (model.predict(images[..., np.newaxis].astype("float32") / 255, batch_size=500, verbose=0), labels),
            "test": (model.predict(mnist_arrays["x_test"][..., np.newaxis].astype("float32") / 255, batch_size=500, verbose=0), mnist_arrays["y_test"])}
    temperature = float(re.search(r"used from here on: temperature ([\d.]+)", all_text(NOTEBOOK_NOW))[1])
    assert temperature == 1, "recompute the table with this temperature"
    sure = {name: (p.max(axis=1).astype("float64"), p.argmax(axis=1) == y) for name, (p, y) in prob.items()}
    rows = table(NOTEBOOK_NOW, "refusal")
    assert list(rows) == ["no refusal", "0.10%", "0.05%"]
    for name, row in rows.items():
        threshold, (confidence, right) = float(row["threshold"]), sure["test"]
        if name != "no refusal":
            target, (c, r) = float(name.rstrip("%")) / 100, sure["validation"]
            allowed = [t for t in np.unique(c) if (~r[c >= t]).mean() <= target]
            assert abs(min(allowed) - threshold) < 6e-5, f"{name}: the threshold should be {min(allowed):.4f}"
            threshold = min(allowed)
        n, errors = int((confidence >= threshold).sum()), int((~right[confidence >= threshold]).sum())
        assert row["errors left"] == f"{errors} of {n:,}" and row["digits refused"] == f"{1 - n / 10_000:.2%}", row
        interval = binomtest(errors, n).proportion_ci(method="exact")
        assert row["error rate"] == f"{errors / n:.3%} ({interval.low:.3%}–{interval.high:.3%})"
        machine = 5_000_000 * (n / 10_000) ** 5
        astray = [machine * (1 - (1 - rate) ** 5) for rate in (errors / n, interval.low, interval.high)]
        assert row["parcels by machine"] == f"{round(machine, -3):,.0f}" and row["by people"] == f"{round(5_000_000 - machine, -3):,.0f}"
        assert row["misrouted"] == "{:,.0f} ({:,.0f}–{:,.0f})".format(*(round(parcels, -3) for parcels in astray))


def test_read_digit_refuses(model, mnist_arrays):
    """read_digit gives the digit, its confidence and whether to refuse, at the threshold of 0.1 %."""
    names = NAMES | {"model": model, "TEMPERATURE": 1.0, "REFUSE_BELOW": {"0.10%": 0.9}}
    exec(tagged(NOTEBOOK_NOW, "refuse").split("\n\n\nval_prob")[0] + "\n\n\n" + tagged(NOTEBOOK_NOW, "read"), names)
    image = page(mnist_arrays["x_test"][0])
    digit, confidence, refused = names["read_digit"](image)
    assert digit == 7 and 0.99 < confidence <= 1 and refused is False
    names["REFUSE_BELOW"]["0.10%"] = 1.1
    assert names["read_digit"](image).refused is True


def test_uploads(model, mnist_arrays):
    """What the upload button calls: a picture is shown, a file that is none gives its error, in both forms that ipywidgets has had."""
    shown, cleared = [], []

    class Output:
        def clear_output(self):
            cleared.append(True)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    names = NAMES | {"tempfile": tempfile, "print": shown.append}
    exec(tagged(NOTEBOOK_NOW, "own-digit").split("\n\n\nif ")[0], names)
    names["show_reading"] = lambda path: shown.append(prepare_digit(path))
    file = io.BytesIO()
    as_mode(page(mnist_arrays["x_test"][0]), "RGB").save(file, "PNG")
    names["read_upload"](({"name": "a.png", "content": memoryview(file.getvalue())},), Output())
    names["read_upload"]({"a.png": {"content": b"not a picture"}}, Output())
    assert shown[0].shape == (28, 28, 1) and "cannot be read as a picture" in shown[1] and len(cleared) == 2


def test_no_button_is_left(committed):
    cell = next(cell for cell in code_cells(committed) if cell.id == "own-digit")
    assert not cell.outputs and "widgets" not in committed.metadata, "run the notebook by the README's command: nobody is there to upload"
    assert "vnd.jupyter.widget" not in str(committed)
