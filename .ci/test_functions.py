"""The notebook's split, strokes, faults and small functions, each by itself."""

import contextlib
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import StratifiedGroupKFold
from submission import cell_of, function_of, tagged


@pytest.fixture(scope="module")
def notebook(committed, mnist_arrays):
    """What the notebook's cells for the split and the augmentation define."""
    from tensorflow import keras
    from tensorflow.keras.preprocessing.image import ImageDataGenerator
    from tensorflow.keras.utils import to_categorical

    names = {
        "np": np,
        "pd": pd,
        "ndimage": ndimage,
        "Image": Image,
        "ImageDraw": ImageDraw,
        "ImageDataGenerator": ImageDataGenerator,
        "StratifiedGroupKFold": StratifiedGroupKFold,
        "to_categorical": to_categorical,
        "x_train_raw": mnist_arrays["x_train"],
        "y_train_raw": mnist_arrays["y_train"],
        "x_test_raw": mnist_arrays["x_test"],
        "y_test": mnist_arrays["y_test"],
    }
    keras.utils.set_random_seed(0)
    for tag in ("parameters", "data", "augmentation"):
        exec(tagged(committed, tag), names)
    return names


def test_no_image_is_in_two_parts(notebook):
    both = np.concatenate([notebook["used_rows"], notebook["val_rows"]])
    np.testing.assert_array_equal(np.sort(both), np.arange(60_000))


def test_a_tenth_is_for_validation(notebook):
    assert len(notebook["val_rows"]) == 6_000


def test_whole_blocks_of_writers_are_for_validation(notebook):
    images_of_block = np.bincount(notebook["val_rows"] // 1000, minlength=60)
    assert set(images_of_block) == {0, 1000}


def test_each_digit_keeps_its_share(notebook):
    training = np.bincount(notebook["y_train"]) / 54_000
    validation = np.bincount(notebook["y_val"]) / 6_000
    np.testing.assert_allclose(training, validation, atol=0.005)


def test_intensities_are_from_0_to_1(notebook):
    assert notebook["X_train"].shape == (54_000, 28, 28, 1)
    assert notebook["X_train"].min() == 0
    assert notebook["X_train"].max() == 1


@pytest.mark.parametrize(
    "part, rows", [("X_train", "train_rows"), ("X_val", "val_rows")]
)
def test_images_are_as_loaded(part, rows, notebook):
    """Strokes are drawn on copies, and never on the validation images."""
    loaded = notebook["x_train_raw"][notebook[rows]]
    grey = np.round(255 * notebook[part][..., 0]).astype("uint8")
    np.testing.assert_array_equal(grey, loaded)


def test_strokes_are_added_to_1s_and_9s_only(notebook):
    differs = (notebook["X_strokes"] != notebook["X_train"]).any(axis=(1, 2, 3))
    digits = notebook["y_train"]
    assert set(digits[differs]) == {1, 9}
    assert differs[digits == 1].mean() == pytest.approx(0.3, abs=0.01)
    assert differs[digits == 9].mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("name, digit", [("add_upstroke", 1), ("add_hook", 9)])
def test_stroke_adds_ink(name, digit, notebook):
    rng = np.random.default_rng(0)
    images = notebook["X_val"][notebook["y_val"] == digit][:100]
    longer = [notebook[name](image, rng) for image in images]
    assert np.shape(longer) == images.shape
    assert 0 <= np.min(longer) and np.max(longer) <= 1
    gained = (np.array(longer) > 0.5).sum() - (images > 0.5).sum()
    assert gained > 10 * len(images), "about ten pixels of ink a digit or more"


def middle_column(images):
    """The mean column of the ink in images (n, h, 28, 1)."""
    ink_of_column = images.sum(axis=(0, 1, 3))
    return np.average(np.arange(28), weights=ink_of_column)


@pytest.mark.parametrize(
    "name, digit, rows",
    [("add_upstroke", 1, slice(14)), ("add_hook", 9, slice(14, 28))],
    ids=["1, upper half", "9, lower half"],
)
def test_stroke_leads_to_the_left(name, digit, rows, notebook):
    rng = np.random.default_rng(0)
    images = notebook["X_val"][notebook["y_val"] == digit][:100]
    longer = np.array([notebook[name](image, rng) for image in images])
    before = middle_column(images[:, rows]) - middle_column(images)
    after = middle_column(longer[:, rows]) - middle_column(longer)
    assert after < before - 0.5, "half a pixel or more further to the left"


def test_line_is_as_wide_as_the_pen_and_has_round_ends(notebook):
    blank = np.zeros((28, 28, 1))
    line = notebook["draw_line"](blank, (8, 14), (20, 14), 4)[..., 0]
    # 12 pixels from end to end, 4 wide, and half a disc of radius 2 at either end
    assert line.sum() == pytest.approx(12 * 4 + np.pi * 2**2, rel=0.03)
    assert line[14, 7] > 0.9, "the round end reaches beyond the point"
    assert line[12, 7] < 0.5, "and has no corner"


FAULTS = [
    "thin_pen",
    "thick_pen",
    "add_line",
    "add_upright_line",
    "add_stain",
    "add_specks",
    "coarsen",
    "blur",
    "smear",
    "change_light",
    "add_noise",
]


def test_faults_of_the_training_are_those_tested_here(notebook):
    assert [row[0].__name__ for row in notebook["TRAINING_FAULTS"]] == FAULTS


@pytest.mark.parametrize("end", ["least", "greatest"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_changes_images_and_keeps_their_form(name, end, notebook):
    row = notebook["TRAINING_FAULTS"][FAULTS.index(name)]
    strength = row[-2] if end == "least" else row[-1]
    images = notebook["X_val"][:50]
    faulty = notebook[name](images, strength)
    assert faulty.shape == images.shape
    assert faulty.min() >= -0.25 and faulty.max() <= 1.25
    changes_nothing = name in ("add_specks", "add_noise") and strength == 0
    assert changes_nothing or (faulty != images).any(), f"{name} changes nothing"


def test_add_faults_leaves_most_images_alone(notebook):
    np.random.seed(0)
    images = notebook["X_val"][:1000]
    before = images.copy()
    changed = (notebook["add_faults"](images) != images).any(axis=(1, 2, 3)).mean()
    assert 0.15 < changed < 0.4
    np.testing.assert_array_equal(images, before)


def test_scan_keeps_its_images_from_a_fault_that_changes_them(committed, notebook):
    names = dict(notebook)
    exec(tagged(committed, "faults"), names)

    def add_fold(images, row):  # as a student may write it in exercise 5
        images[:, row] = 0.5
        return images

    names["CONDITIONS"]["fold"] = (add_fold, 14)
    images = notebook["X_val"][:10].copy()
    scanned = names["scan"](images, "fold")
    assert (scanned[:, 14] == 0.5).all()
    np.testing.assert_array_equal(images, notebook["X_val"][:10])


MOVES = {"theta": 12, "tx": 2, "ty": -2, "shear": 12, "zx": 1.15, "zy": 0.85}
NO_MOVE = {"theta": 0, "tx": 0, "ty": 0, "shear": 0, "zx": 1, "zy": 1}


@pytest.mark.parametrize("name", MOVES)
def test_images_move_as_keras_moves_them(name, notebook, monkeypatch):
    monkeypatch.setitem(notebook, "BENDS", 0 * notebook["BENDS"])
    moves = {**NO_MOVE, name: MOVES[name]}
    # Keras draws tx from height_shift_range, and then moves the columns by it
    swapped = {**moves, "tx": moves["ty"], "ty": moves["tx"]}
    keras_own = notebook["ImageDataGenerator"](fill_mode="constant")
    for image in notebook["X_val"][:20]:
        moved = keras_own.apply_transform(image, swapped)
        expected = np.clip(1.5 * moved - 0.25, 0, 1)
        ours = notebook["datagen"].apply_transform(image, moves)
        assert np.abs(ours - expected).mean() < 0.005


@pytest.fixture(scope="module")
def threshold_for(committed):
    return function_of(
        committed, "threshold_for", precision_recall_curve=precision_recall_curve
    )


def test_threshold_is_the_lowest_that_is_good_enough(threshold_for):
    confidence = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    right = np.array([False, True, False, True, True])
    assert threshold_for(0.25, confidence, right) == 0.6
    assert threshold_for(0.1, confidence, right) == 0.8


def test_threshold_is_1_where_none_is_good_enough(threshold_for):
    confidence = np.array([0.5, 0.9])
    assert threshold_for(0.1, confidence, np.array([True, False])) == 1


@pytest.fixture(scope="module")
def mcnemar(committed):
    return function_of(committed, "mcnemar", binomtest=binomtest)


def test_mcnemar_of_equal_networks_is_1(mcnemar):
    right = np.array([True, False, True])
    assert mcnemar(right, right) == 1


def test_mcnemar_counts_only_where_the_two_differ(mcnemar):
    one = np.array([True] * 8 + [False] * 2 + [True] * 90)
    other = np.array([False] * 8 + [True] * 2 + [True] * 90)
    # 8 to 2 in ten fair throws: 2 * (45 + 10 + 1) / 1024
    assert mcnemar(one, other) == pytest.approx(0.109375)


def test_parcels_astray(committed):
    astray = function_of(committed, "astray", DIGITS=5)
    assert astray(5_000_000, 0.01) == 245_000
    assert astray(5_000_000, 0) == 0


def test_only_default_values_are_dropped_for_older_keras(committed):
    settings = {"renorm": False, "optional": True, "units": 10, "input_axes": None}
    names = {"contextlib": contextlib}
    exec(tagged(committed, "older-keras"), names)
    assert names["drop_newer_settings"](settings) == {"optional": True, "units": 10}


@pytest.mark.parametrize(
    "losses, verdict",
    [
        ([0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1], "It was still falling fast"),
        ([0.9, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], "It hardly changed at the end"),
        ([0.9, 0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "It climbed at the end"),
    ],
    ids=["falling", "flat", "climbing"],
)
def test_verdict_on_the_training(losses, verdict, committed, capsys):
    log = pd.DataFrame({"val_loss": losses, "val_accuracy": 0.9, "learning_rate": 0.1})
    exec(cell_of(committed, "train-result").source, {"log": log, "np": np})
    assert verdict in capsys.readouterr().out


def test_each_training_has_a_checkpoint_of_its_own(committed):
    source = cell_of(committed, "train").source
    (line,) = [line for line in source.splitlines() if "checkpoint = " in line]
    paths = set()
    for _ in range(2):
        names = {"Path": Path, "uuid": uuid}
        exec(line.strip(), names)
        paths.add(names["checkpoint"])
    assert len(paths) == 2, "two runs at once must not write the same file"
