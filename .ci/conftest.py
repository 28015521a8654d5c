"""What the tests share: where things are, the notebook's cells, MNIST, and running the notebook in a scratch copy."""
import contextlib
import copy
import hashlib
import html
import io
import os
import queue
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

REPO = Path(__file__).resolve().parent.parent
NOTEBOOK = Path("notebooks/mnist_classification.ipynb")
MODEL = Path("models/mnist_cnn.keras")
FIGURES = ["sample_digits", "class_distribution", "augmentation_examples",
           "training_history", "confusion_matrix", "misclassified"]
SCANS = ["grey paper", "faded ink", "brighter exposure", "darker exposure", "sensor noise", "salt and pepper", "out of focus",
         "motion blur", "thinner strokes", "thicker strokes", "ruled line", "stain over a corner", "shift", "rotation", "shear",
         "smaller", "larger"]
# Section 9: what each recipe must read of the test set at least, in percent, and the parameters that its author's network has.
WHOLE_RECIPES = {"R1": 97, "R2": 97, "R4a": 97, "R3": 98.5, "R4b": 98.5, "R5": 98.5, "F": 99.6}
PARTS_LEFT_OUT = {key: 96 for key in ("F′", "A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8")}
PARAMETERS = {"R1": "109,386", "R2": "109,386", "R3": "121,994", "R4a": "101,770", "R4b": "121,930"}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # all but tab and newline: what progress bars and colours leave behind
LINES_OF_JUPYTER = re.compile(r"\[(NbConvertApp|IPKernelApp|NbClientApp)\]")


def read_notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def tagged(nb, tag):
    """The sources of the cells with this tag, joined in order."""
    found = [cell.source for cell in nb.cells if tag in cell.metadata.get("tags", [])]
    assert found, f"no cell of {NOTEBOOK} is tagged {tag!r}: put the tag back, the tests take the code from there"
    return "\n\n".join(found)


def texts(cell):
    """All that a cell shows as text."""
    return "\n".join(output.get("text", "") if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
                     for output in cell.outputs)


def all_text(nb):
    return "\n".join(texts(cell) for cell in code_cells(nb))


def scanning_table(nb):
    """The table of section 7.7: {condition: accuracy in percent}."""
    shown = next(texts(cell) for cell in code_cells(nb) if cell.id == "scan-scores")
    return {name: float(value) for name, value in re.findall(r"^(\w+(?: \w+)*) {2,}.*? ([\d.]+)%", shown, re.M)}


def table(nb, cell_id):
    """The table that this cell shows: {first word of the row's name: {column: text}}, in its order."""
    cell = next((cell for cell in code_cells(nb) if cell.id == cell_id), None)
    assert cell, f"the notebook has no code cell with the id {cell_id!r}: put the id back"
    shown = [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
    assert shown, f"the cell {cell_id!r} shows no table: run the notebook with RUN_COMPARISON = True"
    header, *rows = [[html.unescape(text) for text in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
                     for row in re.findall(r"<tr[^>]*>(.*?)</tr>", shown[0], re.S)]
    return {row[0].split(":")[0]: dict(zip(header, row)) for row in rows}


def check_comparison(nb):
    """Fail unless section 9's tables hold every recipe, each with its author's network, and each trained and learned."""
    for cell_id, floors in (("whole-table", WHOLE_RECIPES), ("parts-table", PARTS_LEFT_OUT)):
        rows = table(nb, cell_id)
        assert sorted(rows) == sorted(floors), f"{cell_id} should have the rows {sorted(floors)}, it has {sorted(rows)}"
        for key, row in rows.items():
            accuracy, errors = float(row["test acc."].rstrip("%")), int(row["errors"])
            assert abs(100 - errors / 100 - accuracy) < 1e-6, f"{key}: {errors} errors of 10,000 are not an accuracy of {accuracy} %"
            assert accuracy >= floors[key], f"{key} reads only {accuracy} % of the test set, it should learn to read {floors[key]} %"
            assert re.fullmatch(r"[1-9]\d* s", row["training"]), f"{key}: the training time is {row['training']!r}"
            assert float(row["training acc."].rstrip("%")) >= floors[key] and 30 < float(row["scanning acc."].rstrip("%")) < 100, f"{key}: {row}"
            if key in PARAMETERS:
                assert row["parameters"] == PARAMETERS[key], f"{key} has {row['parameters']} parameters, its author's network {PARAMETERS[key]}"


def check_speed(nb):
    """Fail unless section 10.4 shows every way, the best one reads a digit 20 times as fast as model.predict, and int8 is small and exact."""
    rows = table(nb, "fast-table")
    assert list(rows) == ["model.predict", "the model called", "tf.function", "Lite, float32", "Lite, int8"], f"section 10.4 has the rows {list(rows)}"
    columns = [column for column in rows["model.predict"] if column.startswith(("one digit: ms, ", "500: digits/s, "))]
    assert len(columns) == 4 or columns and not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) == 1, \
        f"section 10.4 should time one digit and batches, on one core and on all: {columns}"
    for way, row in rows.items():
        for column in columns:
            assert re.fullmatch(r"\d[\d.,]* \(\d[\d.,]*–\d[\d.,]*\)", row[column]), f"{way}, {column}: no median with its quartiles: {row[column]}"
    one = {way: float(row[columns[len(columns) // 2 - 1]].split()[0]) for way, row in rows.items()}  # on all cores
    assert one["model.predict"] >= 20 * min(one.values()), f"no way reads a digit 20 times as fast as model.predict: {one}"
    plain, int8 = rows["Lite, float32"], rows["Lite, int8"]
    assert float(int8["KB"].replace(",", "")) <= 0.3 * float(plain["KB"].replace(",", "")), f"int8 has {int8['KB']} KB, float32 {plain['KB']} KB"
    accuracy = [float(row["test acc."].rstrip("%")) for row in (plain, int8)]
    assert abs(accuracy[0] - accuracy[1]) <= 0.05 + 1e-9, f"int8 reads {accuracy[1]} %, float32 {accuracy[0]} %"


def problems(nb):
    """What must not be in an executed notebook, as a list of sentences."""
    found = []
    for number, cell in enumerate(code_cells(nb), 1):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"code cell {number} ({cell.id}) failed: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"code cell {number} ({cell.id}) wrote to stderr: {output.text[:300]!r}")
        if CONTROL.search(texts(cell)):
            found.append(f"code cell {number} ({cell.id}) shows control characters: print plain text, no progress bars")
    return found


def with_parameters(nb, **values):
    """A copy of the notebook with these parameters set in a cell after the one tagged `parameters`, as papermill does."""
    nb = copy.deepcopy(nb)
    at = next(i for i, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", []))
    for name in values:
        assert re.search(rf"^{name} *=", nb.cells[at].source, re.M), f"{name} is not in the cell tagged 'parameters'"
    nb.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in values.items())))
    return nb


def check_figure(path):
    """Fail unless the file is a PNG that can be read, at least 1000 pixels wide, and shows something."""
    assert path.is_file(), f"{path} is missing: run the notebook"
    try:
        with Image.open(path, formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("L"))
    except Exception as error:  # a damaged file can fail in many ways
        pytest.fail(f"{path} cannot be read as a PNG, run the notebook again: {error}")
    assert pixels.shape[1] >= 1000, f"{path} is only {pixels.shape[1]} pixels wide: raise savefig.dpi"
    inked = (pixels < 128).mean()
    assert inked > 0.001 and len(np.unique(pixels)) > 20, f"{path} is blank"


def accuracy_on_test(model_path, mnist_npz):
    """Load the saved model and score it on the 10,000 test images, without any code of the notebook."""
    from tensorflow import keras

    with np.load(mnist_npz) as arrays:
        images, labels = arrays["x_test"].astype("float32")[..., np.newaxis] / 255, arrays["y_test"]
    probabilities = keras.models.load_model(model_path).predict(images, batch_size=500, verbose=0)
    return float((probabilities.argmax(axis=1) == labels).mean())


def nbconvert(path, **env):
    """Execute the notebook in place, as the README does, but past errors, so that it can be looked at. Returns stderr's lines."""
    jupyter = Path(sys.executable).parent / "jupyter"
    ran = subprocess.run(
        [jupyter, "nbconvert", "--to", "notebook", "--execute", "--inplace", "--allow-errors", path],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ | env)
    assert ran.returncode == 0, f"jupyter nbconvert failed:\n{ran.stdout}\n{ran.stderr}"
    return [line for line in ran.stderr.splitlines() if line.strip() and not LINES_OF_JUPYTER.match(line)]


@pytest.fixture(scope="session")
def committed():
    path = REPO / NOTEBOOK
    assert path.is_file(), f"{NOTEBOOK} is missing"
    return read_notebook(path)


def loader_names(nb, **given):
    """Run the notebook's loader cells with `mnist`, ROOT and DOWNLOAD_TIMEOUT as given; returns the names that they define."""
    names = dict(os=os, io=io, np=np, hashlib=hashlib, queue=queue, threading=threading, contextlib=contextlib,
                 Counter=Counter, Path=Path, keras=SimpleNamespace(utils=SimpleNamespace(disable_interactive_logging=lambda: None))) | given
    exec(tagged(nb, "loader"), names)
    return names


@pytest.fixture(scope="session")
def mnist_npz(committed, tmp_path_factory):
    """The real MNIST as an .npz file, from wherever the notebook's own loader finds it."""
    from tensorflow.keras.datasets import mnist

    loader = loader_names(committed, mnist=mnist, ROOT=REPO, DOWNLOAD_TIMEOUT=120)
    (x_train, y_train), (x_test, y_test), _ = loader["load_mnist"]()
    path = tmp_path_factory.mktemp("data") / "mnist.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="session")
def mnist_arrays(mnist_npz):
    with np.load(mnist_npz) as arrays:
        return dict(arrays)
