"""The notebook's own loader, taken from its cells tagged `loader`: every source, and every way in which one can be bad."""
import time

import numpy as np
import pytest

from conftest import loader_names


class Keras:
    """Stands in for tensorflow.keras.datasets.mnist."""

    def __init__(self, load_data):
        self.load_data = load_data


def no_network():
    raise OSError("URL fetch failure: name resolution failed")


@pytest.fixture
def load(committed, tmp_path, monkeypatch):
    """A function that sets up a repository in an empty folder and calls load_mnist() there."""
    monkeypatch.delenv("MNIST_NPZ", raising=False)
    (tmp_path / "repository").mkdir()

    def call(load_data=no_network, **settings):
        names = loader_names(committed, mnist=Keras(load_data), ROOT=tmp_path / "repository", DOWNLOAD_TIMEOUT=1, **settings)
        return names["load_mnist"]()
    return call


@pytest.fixture
def shared(tmp_path, mnist_npz):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mnist.npz").symlink_to(mnist_npz)
    return tmp_path / "shared" / "mnist.npz"


def is_mnist(train, test, arrays):
    return all(np.array_equal(a, arrays[name]) for a, name in zip((*train, *test), ("x_train", "y_train", "x_test", "y_test")))


def test_mnist_npz_comes_first(load, shared, mnist_npz, mnist_arrays, monkeypatch):
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    train, test, source = load(lambda: pytest.fail("Keras was asked although MNIST_NPZ is set"))
    assert is_mnist(train, test, mnist_arrays) and "MNIST_NPZ" in source


def test_mnist_npz_relative_to_the_repository(load, mnist_npz, mnist_arrays, monkeypatch, tmp_path):
    (tmp_path / "repository" / "copy.npz").symlink_to(mnist_npz)
    monkeypatch.setenv("MNIST_NPZ", "copy.npz")
    train, test, _ = load()
    assert is_mnist(train, test, mnist_arrays)


def test_keras_comes_second_and_its_progress_bar_is_not_shown(load, shared, capsys):
    def load_data():
        print("\r 1/9 [===>.....]", end="")
        return ("x", "y"), ("x test", "y test")

    train, test, source = load(load_data)
    assert (train, test) == (("x", "y"), ("x test", "y test")) and "load_data" in source
    assert capsys.readouterr().out == "", "the download's progress bar would end up in the notebook"


def test_shared_comes_third(load, shared, mnist_arrays):
    train, test, source = load()
    assert is_mnist(train, test, mnist_arrays) and "shared/mnist.npz" in source


def test_a_hanging_network_does_not_hang_the_notebook(load, shared, mnist_arrays):
    started = time.monotonic()
    train, test, source = load(lambda: time.sleep(600))
    assert time.monotonic() - started < 30, "load_mnist() waited for a network that never answers"
    assert is_mnist(train, test, mnist_arrays) and "shared/mnist.npz" in source


def test_no_source_is_one_clear_error(load, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load()
    message = str(error.value)
    for part in ("MNIST_NPZ", "load_data", str(tmp_path / "shared" / "mnist.npz"), "x_train", "name resolution failed"):
        assert part in message, f"the error does not mention {part}:\n{message}"
    assert error.value.__cause__ is None and error.value.__context__ is None, "the error drags the network's traceback along"


def test_a_missing_file_in_mnist_npz(load, shared, monkeypatch, tmp_path):
    monkeypatch.setenv("MNIST_NPZ", str(tmp_path / "nowhere.npz"))
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        load()  # and not another source in its place


def damaged(kind, path, arrays, whole):
    if kind == "truncated":
        path.write_bytes(whole[:len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a byte flipped":
        at = len(whole) // 3
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1:])
    elif kind == "not an archive":
        path.write_text("label,pixel0,pixel1\n5,0,0\n")
    elif kind == "an array missing":
        np.savez(path, **{name: a for name, a in arrays.items() if name != "y_test"})
    elif kind == "one array, no archive":
        with path.open("wb") as file:
            np.save(file, arrays["y_test"])
    elif kind == "pickled objects":
        np.savez(path, **arrays | {"y_test": np.array([{}, {}], dtype=object)})


@pytest.mark.parametrize("kind", ["truncated", "empty", "a byte flipped", "not an archive", "an array missing",
                                  "one array, no archive", "pickled objects"])
@pytest.mark.parametrize("source", ["MNIST_NPZ", "shared"])
def test_a_damaged_file(kind, source, load, mnist_arrays, mnist_npz, monkeypatch, tmp_path):
    path = tmp_path / "shared" / "mnist.npz"
    path.parent.mkdir()
    damaged(kind, path, mnist_arrays, mnist_npz.read_bytes())
    if source == "MNIST_NPZ":
        monkeypatch.setenv("MNIST_NPZ", str(path))
    with pytest.raises(ValueError, match="cannot be read as MNIST") as error:
        load()
    assert str(path) in str(error.value) and "fetch it again" in str(error.value)


def wrong(kind, x, y):
    """Images and labels of the training set with one thing wrong."""
    if kind == "too few":
        return x[:-1], y[:-1]
    if kind == "flat images":
        return x.reshape(len(x), -1), y
    if kind == "float images":
        return x / 255, y
    if kind == "wide labels":
        return x, y.astype(np.int64)
    if kind == "one label changed":
        return x, np.where(np.arange(len(y)) == 0, (y + 1) % 10, y)
    if kind == "letters":
        return x, np.where(np.arange(len(y)) == 0, 25, y).astype(np.uint8)
    if kind == "labels shuffled":
        return x, np.random.default_rng(0).permutation(y)
    if kind == "one pixel changed":
        changed = x.copy()
        changed[7, 14, 14] ^= 1
        return changed, y


@pytest.mark.parametrize("kind, says", [
    ("too few", r"\(59999, 28, 28\)"), ("flat images", r"\(60000, 784\)"), ("float images", "float64"), ("wide labels", "int64"),
    ("one label changed", "5: 5420"), ("letters", "25: 1"), ("labels shuffled", "pixels or labels differ"),
    ("one pixel changed", "pixels or labels differ")])
def test_wrong_contents(kind, says, committed, mnist_arrays, tmp_path):
    check = loader_names(committed, mnist=None, ROOT=tmp_path, DOWNLOAD_TIMEOUT=1)["check_mnist"]
    x, y = mnist_arrays["x_train"], mnist_arrays["y_train"]
    check("training", x, y, "a file")
    with pytest.raises(ValueError, match=says) as error:
        check("training", *wrong(kind, x, y), "a file")
    assert "training set" in str(error.value) and "read from a file" in str(error.value)


def test_training_and_test_set_swapped(committed, mnist_arrays, tmp_path):
    check = loader_names(committed, mnist=None, ROOT=tmp_path, DOWNLOAD_TIMEOUT=1)["check_mnist"]
    check("test", mnist_arrays["x_test"], mnist_arrays["y_test"], "a file")
    with pytest.raises(ValueError, match="test set"):
        check("test", mnist_arrays["x_train"], mnist_arrays["y_train"], "a file")
