"""Sections 10.3 and 10.4, by the notebook's own functions, taken from its cells by tag: what decides, and TensorFlow Lite."""
import contextlib
import io
import math
import os
import re
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import MODEL, NOTEBOOK, REPO, all_text, code_cells, read_notebook, table, tagged

NOTEBOOK_NOW = read_notebook(REPO / NOTEBOOK)


def source(cell_id):
    return next(cell.source for cell in code_cells(NOTEBOOK_NOW) if cell.id == cell_id)


@pytest.fixture(scope="module")
def model():
    from tensorflow import keras

    return keras.models.load_model(REPO / MODEL)


@pytest.fixture(scope="module")
def scored(mnist_arrays):
    return mnist_arrays["x_test"][..., np.newaxis].astype("float32") / 255, mnist_arrays["y_test"]


def speed_names(**given):
    """The names that section 10.4's cells need, and those that they define."""
    names = dict(np=np, io=io, os=os, warnings=warnings, contextlib=contextlib) | given
    exec(re.search(r"^@contextlib\.contextmanager\ndef quiet\(\):.*?(?=^with )", source("quiet"), re.M | re.S)[0], names)
    exec(tagged(NOTEBOOK_NOW, "speed"), names)
    return names


def test_lite_files_are_those_of_the_table(model, scored, mnist_arrays, capfd):
    """Size, accuracy and changed answers of both files, from the committed model and the notebook's own calibration images."""
    import tensorflow as tf
    from sklearn.model_selection import StratifiedGroupKFold

    split = {"np": np, "StratifiedGroupKFold": StratifiedGroupKFold, "x_train_raw": mnist_arrays["x_train"], "y_train_raw": mnist_arrays["y_train"]}
    exec(source("split").split("split_counts")[0], split)
    X_train = mnist_arrays["x_train"][split["train_rows"]][..., np.newaxis].astype("float32") / 255
    tf.get_logger().setLevel("ERROR")
    capfd.readouterr()
    names = speed_names(tf=tf, reloaded=model, X_train=X_train)
    images, labels = scored
    original = model.predict(images, batch_size=500, verbose=0)
    readers = {way: names["lite_reader"](file, 500, 2) for way, file in names["lite_files"].items()}
    printed = capfd.readouterr()
    assert not printed.out and not printed.err, f"messages of TensorFlow Lite came through: {printed}"
    rows = table(NOTEBOOK_NOW, "fast-table")
    sizes = [len(file) for file in names["lite_files"].values()]
    assert sizes[1] <= 0.3 * sizes[0], f"int8 has {sizes[1]:,} bytes, float32 {sizes[0]:,}"
    for (way, read), size in zip(readers.items(), sizes):
        prob = np.concatenate([read(batch) for batch in np.split(images, 20)])
        assert prob.shape == (10_000, 10) and np.abs(prob.sum(axis=1) - 1).max() < 0.05
        far = np.abs(prob - original)
        assert far.max() < 1e-4 if "float32" in way else far.mean() < 0.002, f"{way}: {far.max()} at most, {far.mean()} on average"
        answers = prob.argmax(axis=1)
        assert abs((answers == labels).mean() - (original.argmax(axis=1) == labels).mean()) <= 0.0005, way
        assert abs(100 * (answers == labels).mean() - float(rows[way]["test acc."].rstrip("%"))) <= 0.02, f"{way}: the table says {rows[way]}"
        assert abs((answers != original.argmax(axis=1)).sum() - int(rows[way]["differ"])) <= 3, f"{way}: the table says {rows[way]}"
        assert abs(size / 1000 - float(rows[way]["KB"].replace(",", ""))) <= 0.02 * size / 1000, f"{way}: the table says {rows[way]}"


def test_every_way_gives_the_same_answers(model, scored):
    import tensorflow as tf

    names = speed_names(tf=tf, reloaded=model, X_train=scored[0])
    images = scored[0][:500]
    original = model.predict(images, verbose=0)
    ways = names["ways_to_read"](model, names["lite_files"], 1)
    assert len(ways) == 5
    for way, read in ways.items():
        for batch in (images[:1], images):
            far = np.abs(read(batch) - original[:len(batch)])
            assert far.shape == (len(batch), 10) and (far.mean() < 0.005 if "int8" in way else far.max() < 1e-4), f"{way}: {far.max()}"


@pytest.mark.parametrize("left", [None, [], ["TFLiteConverter", "Optimize", "OpsSet"], ["Interpreter"]])
def test_without_tensorflow_lite(left, model, scored, capsys):
    """If TensorFlow Lite is missing, or a part of it, the cell says so, and the notebook goes on with three ways."""
    import tensorflow

    lite = {} if left is None else {"lite": SimpleNamespace(**{name: getattr(tensorflow.lite, name) for name in left})}
    tf = SimpleNamespace(function=lambda *f, **_: f[0], TensorSpec=lambda *_: None, int8=tensorflow.int8, **lite)
    names = speed_names(tf=tf, reloaded=model, X_train=scored[0][:200])
    assert names["lite_files"] == {} and "without TensorFlow Lite" in capsys.readouterr().out
    assert list(names["ways_to_read"](None, {}, 1)) == ["model.predict", "the model called", "tf.function"]


def test_the_summary_follows_from_the_table(model):
    rows, text = table(NOTEBOOK_NOW, "fast-table"), all_text(NOTEBOOK_NOW)
    columns = list(rows["model.predict"])
    one, many = (next(c for c in reversed(columns) if c.startswith(start)) for start in ("one digit", "500"))
    value = {(way, c): float(row[c].split()[0].replace(",", "")) for way, row in rows.items() for c in (one, many)}
    found = re.findall(r"(the model called|tf\.function|Lite, float32|Lite, int8) (\d[\d,]*)(?=,|$)",
                       re.search(r"^one digit, times as fast.*", text, re.M)[0])
    assert len(found) == 4, f"the line should compare four ways: {found}"
    for way, times in found:
        expected = value["model.predict", one] / value[way, one]
        assert abs(float(times.replace(",", "")) - expected) < 0.5 + 0.02 * expected, f"{way}: {times} times as fast, the table gives {expected:.1f}"
    cores = one.rsplit(", ", 1)[1]
    minutes = float(re.search(rf"a day's 25,000,000 digits take {cores} (\d+) minutes", text)[1])
    fastest = max(value[way, many] for way in rows)
    assert abs(minutes - 25_000_000 / fastest / 60) <= 0.6 + 0.03 * minutes
    work = 0
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Conv2D":
            work += math.prod(layer.output.shape[1:]) * math.prod(layer.kernel_size) * layer.input.shape[-1]
        elif kind == "Dense":
            work += layer.input.shape[-1] * layer.units
    assert f"{work / 1e6:.2f} million multiply–adds a digit" in text
    rate = float(re.search(r"the processor makes (\d+) billion", text)[1]) * 1e9
    found = re.findall(r"(model\.predict|the model called|tf\.function|Lite, float32|Lite, int8) (\d+)%", text.split("share of that rate")[1])
    assert len(found) == 5, f"the line should give five shares: {found}"
    for way, share in found:
        assert abs(float(share) - 100 * work * value[way, many] / rate) <= 2 + 0.03 * float(share), f"{way}: {share} %"


def test_on_cores_pins_and_lets_go():
    """All threads of the process are held to one core, and let go even after an error."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) == 1:
        pytest.skip("this system cannot pin threads to cores, or has only one")
    names = dict(os=os, contextlib=contextlib)
    exec(tagged(NOTEBOOK_NOW, "on-cores").split("\n\n\ncan_pin")[0], names)
    done, before = threading.Event(), os.sched_getaffinity(0)
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with contextlib.suppress(KeyError), names["on_cores"](1):
            assert len(os.sched_getaffinity(0)) == 1 and os.sched_getaffinity(other.native_id) == os.sched_getaffinity(0)
            raise KeyError
        assert os.sched_getaffinity(0) == before and os.sched_getaffinity(other.native_id) == before
    finally:
        done.set()
        other.join()


def test_maps_of_occlusion(model, scored):
    """Erasing what is empty changes nothing; a map's value is the change that its square makes; strokes speak for the digit."""
    names = dict(np=np)
    exec(tagged(NOTEBOOK_NOW, "looks"), names)
    images, labels = scored

    def odds(image, y=0, x=0, reach=0, level=None):
        """The log-odds of the digit, with the square of 2 × reach + 1 pixels around (y, x) set to the level."""
        changed = image.copy()
        if level is not None:
            changed[max(0, y - reach):y + reach + 1, max(0, x - reach):x + reach + 1] = level
        prob = model.predict(changed[np.newaxis], verbose=0)[0].astype("float64")
        return np.log(prob[digit]) - np.log(np.delete(prob, digit).sum())
    for image, digit in zip(images[:3], labels[:3]):
        erased, inked = names["ink_speaks"](model, image, digit)
        assert erased.shape == inked.shape == (28, 28)
        assert np.abs(erased[0, 0]) < 1e-4, "the empty corner should not matter"
        for y, x in (np.unravel_index(erased.argmax(), (28, 28)), (14, 14), (0, 27)):
            assert abs(erased[y, x] - (odds(image) - odds(image, y, x, 2, 0))) < 1e-2
        for y, x in (np.unravel_index(inked.argmin(), (28, 28)), (14, 14), (27, 0)):
            assert abs(inked[y, x] - (odds(image, y, x, 1, 1) - odds(image))) < 1e-2
        assert erased.max() > 1 and inked.min() < -1, "some stroke and some gap should matter"
