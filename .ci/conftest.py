"""What the tests share: where things are, the notebook's cells, MNIST, the reader of digits, and running a notebook."""
import contextlib
import copy
import io
import os
import re
import socket
from pathlib import Path

import nbformat
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from nbclient import NotebookClient
from scipy import ndimage

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

REPO = Path(__file__).resolve().parent.parent
NOTEBOOK, MODEL = Path("notebooks/mnist_classification.ipynb"), Path("models/mnist_cnn.keras")
FIGURES = ["sample_digits", "class_distribution", "augmentation_examples", "training_history", "confusion_matrix", "misclassified"]


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def by_id(nb, name):
    return next(cell for cell in nb.cells if cell.id == name)  # the tests go by ids: put it back if it is missing


def tagged(nb, tag):
    return "\n\n".join(cell.source for cell in nb.cells if tag in cell.metadata.get("tags", []))


def texts(cell):
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def rows(nb, name):
    """The table that the cell of this id shows: a list of rows of texts, without the header."""
    html = next(output.data["text/html"] for output in by_id(nb, name).outputs if "text/html" in output.get("data", {}))
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.S) if "<td" in row]


def problems(nb):
    """What must not be in an executed notebook, as one text; empty if all is well."""
    found = []
    for number, cell in enumerate(code_cells(nb), 1):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"code cell {number} ({cell.id}) failed: {output.get('ename')} {output.get('evalue') or output.text[:300]}")
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", texts(cell)):
            found.append(f"code cell {number} ({cell.id}) shows control characters: print plain text, no progress bars")
    return "\n".join(found)


def with_parameters(nb, **values):
    nb, source = copy.deepcopy(nb), "\n".join(f"{name} = {value!r}" for name, value in values.items())
    nb.cells.insert(1 + nb.cells.index(by_id(nb, "parameters")), nbformat.v4.new_code_cell(source))
    return nb


def run(nb, folder, **options):
    NotebookClient(nb, resources={"metadata": {"path": str(folder)}}, kernel_name="python3", **options).execute()


def accuracy_on_test(model, mnist_arrays, change=lambda images: images):
    images = change(mnist_arrays["x_test"][..., np.newaxis].astype("float32") / 255)
    return float((model.predict(images, batch_size=500, verbose=0).argmax(axis=1) == mnist_arrays["y_test"]).mean())


def check_figure(path):
    """Fail unless the file is a PNG that can be read, at least 1000 pixels wide, and shows something."""
    with PIL.Image.open(path, formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] >= 1000, f"{path} is only {pixels.shape[1]} pixels wide: raise savefig.dpi"
    assert (pixels < 128).mean() > 0.001 and len(np.unique(pixels)) > 20, f"{path} is blank"


def loader(nb, mnist):
    names = dict(contextlib=contextlib, io=io, os=os, np=np, socket=socket, mnist=mnist)
    exec(tagged(nb, "loader").split("\n\n\n(x_train_raw")[0], names)
    return names["load_mnist"]


@pytest.fixture(scope="session")
def committed():
    return nbformat.read(REPO / NOTEBOOK, as_version=4)


@pytest.fixture(scope="session")
def mnist_npz(committed, tmp_path_factory):
    """The real MNIST as an .npz file, from wherever the notebook's own loader finds it."""
    from tensorflow.keras.datasets import mnist

    with contextlib.chdir(REPO):
        (x_train, y_train), (x_test, y_test) = loader(committed, mnist)()
    path = tmp_path_factory.mktemp("data") / "mnist.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="session")
def mnist_arrays(mnist_npz):
    return dict(np.load(mnist_npz))


@pytest.fixture(scope="session")
def model():
    from tensorflow import keras

    return keras.models.load_model(REPO / MODEL)


@pytest.fixture(scope="session")
def prepare_digit(committed):
    names = dict(io=io, os=os, np=np, PIL=PIL, ndimage=ndimage)
    exec(tagged(committed, "prepare"), names)
    return names["prepare_digit"]
