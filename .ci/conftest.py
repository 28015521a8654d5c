"""What the tests share: the committed notebook, MNIST, the model and the reader."""

import contextlib
import gzip
import hashlib
import io
import os
import re
import shutil
import socket
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from submission import MODEL, NOTEBOOK, REPO, tagged
from PIL import Image, ImageOps
from scipy import ndimage
from scipy.spatial import ConvexHull

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def loader_of(nb, mnist, kaggle="/kaggle/input"):
    """What the notebook's loader defines: {name: function}.

    mnist: takes the place of Keras' own module; kaggle: of Kaggle's folder.
    """
    names = dict(
        contextlib=contextlib,
        gzip=gzip,
        hashlib=hashlib,
        io=io,
        os=os,
        re=re,
        socket=socket,
        zipfile=zipfile,
        Path=Path,
        np=np,
        pd=pd,
        mnist=mnist,
    )
    source = tagged(nb, "loader")
    assert '"/kaggle/input"' in source
    exec(source.replace('"/kaggle/input"', repr(str(kaggle))), names)
    return names


@pytest.fixture(scope="session")
def committed():
    return nbformat.read(REPO / NOTEBOOK, as_version=4)


@pytest.fixture(scope="session")
def mnist_npz(committed, tmp_path_factory):
    """The real MNIST as an .npz file, from wherever the notebook's loader finds it."""
    from tensorflow.keras.datasets import mnist

    with contextlib.chdir(REPO):
        (x_train, y_train), (x_test, y_test) = loader_of(committed, mnist)[
            "load_mnist"
        ]()
    path = tmp_path_factory.mktemp("data") / "mnist.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="session")
def mnist_arrays(mnist_npz):
    return dict(np.load(mnist_npz))


@pytest.fixture(scope="session")
def x_test(mnist_arrays):
    """The test images, (10000, 28, 28, 1) float32, 0 to 1."""
    return mnist_arrays["x_test"][..., np.newaxis].astype("float32") / 255


@pytest.fixture(scope="session")
def y_test(mnist_arrays):
    return mnist_arrays["y_test"]


@pytest.fixture(scope="session")
def model():
    from tensorflow import keras

    return keras.models.load_model(REPO / MODEL)


@pytest.fixture(scope="session")
def prepare_digit(committed):
    names = dict(
        io=io,
        os=os,
        np=np,
        Image=Image,
        ImageOps=ImageOps,
        ndimage=ndimage,
        ConvexHull=ConvexHull,
    )
    exec(tagged(committed, "prepare"), names)
    return names["prepare_digit"]


def copy_submission(folder):
    """Copy what the notebook reads and writes into a folder."""
    leftovers = shutil.ignore_patterns("checkpoints", ".ipynb_checkpoints")
    for name in ("notebooks", "figures", "models"):
        shutil.copytree(REPO / name, folder / name, ignore=leftovers)
    shutil.copy(REPO / "requirements.txt", folder)


@pytest.fixture
def scratch(tmp_path, mnist_npz, monkeypatch):
    """A copy of the submission in an empty folder, to be changed by a run."""
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    copy_submission(tmp_path)
    return tmp_path
