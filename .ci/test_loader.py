"""load_mnist: every source, and every way in which one can be bad."""

import hashlib
import socket
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import load_mnist_of
from submission import cell_of


def no_network():
    raise OSError("URL fetch failure: name resolution failed")


@pytest.fixture
def load(committed, tmp_path, monkeypatch):
    """A function that calls load_mnist in an empty repository, without a network."""
    monkeypatch.delenv("MNIST_NPZ", raising=False)
    (tmp_path / "repository").mkdir()
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path / "repository")

    def call(load_data=no_network):
        return load_mnist_of(committed, SimpleNamespace(load_data=load_data))()

    return call


@pytest.fixture
def shared(tmp_path, load, mnist_npz):
    (tmp_path / "shared" / "mnist.npz").symlink_to(mnist_npz)


def check_is_mnist(loaded, arrays):
    (x_train, y_train), (x_test, y_test) = loaded
    np.testing.assert_array_equal(x_train, arrays["x_train"])
    np.testing.assert_array_equal(y_train, arrays["y_train"])
    np.testing.assert_array_equal(x_test, arrays["x_test"])
    np.testing.assert_array_equal(y_test, arrays["y_test"])


def test_mnist_npz_comes_first(load, mnist_npz, mnist_arrays, monkeypatch, tmp_path):
    def not_asked():
        pytest.fail("Keras was asked although MNIST_NPZ is set")

    (tmp_path / "shared" / "mnist.npz").write_text("not asked for, either")
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    check_is_mnist(load(not_asked), mnist_arrays)


def test_mnist_npz_that_is_missing_is_named(load, shared, monkeypatch):
    monkeypatch.setenv("MNIST_NPZ", "nowhere.npz")
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        load()


def test_keras_comes_second(load, shared):
    assert load(lambda: ("train", "test")) == ("train", "test")


def test_keras_shows_no_progress_bar(load, shared, capsys):
    def with_progress_bar():
        print("\r 1/9 [===>.....]", end="")

    load(with_progress_bar)
    assert capsys.readouterr().out == ""


def test_shared_comes_third(load, shared, mnist_arrays):
    check_is_mnist(load(), mnist_arrays)


def test_a_silent_network_is_given_up(load, shared, mnist_arrays, monkeypatch):
    set_timeout = socket.setdefaulttimeout

    def shortened(seconds):
        assert seconds is None or 0 < seconds <= 60, "do not wait longer than a minute"
        set_timeout(seconds and 1)

    monkeypatch.setattr(socket, "setdefaulttimeout", shortened)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/mnist.npz"
        started = time.monotonic()
        check_is_mnist(load(lambda: direct.open(address).read()), mnist_arrays)
    assert time.monotonic() - started < 20
    assert socket.getdefaulttimeout() is None, "put the time limit back"


@pytest.mark.parametrize(
    "part", ["MNIST_NPZ", "load_data", "name resolution failed", "certifi", "damaged"]
)
def test_no_source_is_one_clear_error(part, load):
    with pytest.raises(FileNotFoundError, match=part):
        load()


def test_no_source_names_the_shared_file(load, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load()
    assert str(tmp_path / "shared" / "mnist.npz") in str(error.value)


def truncated(path, arrays):
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:20_000_000])


def text(path, arrays):
    path.write_bytes(b"label,pixel0\n5,0\n")


def an_array_missing(path, arrays):
    np.savez(path, x_train=arrays["x_train"], y_train=arrays["y_train"])


def pickled_objects(path, arrays):
    objects = np.array([{}, {}], dtype=object)
    np.savez(path, **{**arrays, "y_test": objects})


@pytest.mark.parametrize("damage", [truncated, text, an_array_missing, pickled_objects])
def test_a_damaged_file(damage, load, mnist_arrays, tmp_path):
    damage(tmp_path / "shared" / "mnist.npz", mnist_arrays)
    with pytest.raises(ValueError, match="fetch it again"):
        load()


@pytest.fixture
def loaded(mnist_arrays):
    """The variables that the fingerprint cell reads."""
    return {
        "np": np,
        "hashlib": hashlib,
        "x_train_raw": mnist_arrays["x_train"],
        "y_train_raw": mnist_arrays["y_train"],
        "x_test_raw": mnist_arrays["x_test"],
        "y_test": mnist_arrays["y_test"],
    }


def test_mnist_has_the_published_fingerprints(committed, loaded):
    exec(cell_of(committed, "check").source, loaded)


def shorter(given):
    given["x_train_raw"] = given["x_train_raw"][:-1]


def one_bit_flipped(given):
    given["x_train_raw"] = given["x_train_raw"].copy()
    given["x_train_raw"][30_000, 14, 14] ^= 1


def labels_as_int64(given):
    given["y_test"] = given["y_test"].astype(int)


def signed_bytes(given):
    given["x_test_raw"] = given["x_test_raw"].view("int8")


def labels_shuffled(given):
    given["y_train_raw"] = np.random.default_rng(0).permutation(given["y_train_raw"])


def training_as_test(given):
    given["x_test_raw"] = given["x_train_raw"]


@pytest.mark.parametrize(
    "change",
    [
        shorter,
        one_bit_flipped,
        labels_as_int64,
        signed_bytes,
        labels_shuffled,
        training_as_test,
    ],
)
def test_other_contents_are_refused(change, committed, loaded):
    change(loaded)
    with pytest.raises(ValueError, match="is not the published MNIST"):
        exec(cell_of(committed, "check").source, loaded)
