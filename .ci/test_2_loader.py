"""The notebook's loader: every source, and every way in which one can be bad."""
import hashlib
import socket
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import by_id, loader


@pytest.fixture
def load(committed, tmp_path, monkeypatch):
    """A function that calls load_mnist() in an empty repository, with load_data in the place of Keras' own."""
    monkeypatch.delenv("MNIST_NPZ", raising=False)
    (tmp_path / "repository").mkdir()
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    no_network = lambda: (_ for _ in ()).throw(OSError("URL fetch failure: name resolution failed"))
    return lambda load_data=no_network: loader(committed, SimpleNamespace(load_data=load_data))()


@pytest.fixture
def shared(tmp_path, load, mnist_npz):
    (tmp_path / "shared" / "mnist.npz").symlink_to(mnist_npz)


def is_mnist(loaded, arrays):
    return all(np.array_equal(a, arrays[name]) for name, a in zip(("x_train", "y_train", "x_test", "y_test"), sum(loaded, ())))


def test_mnist_npz_comes_first_and_keras_second_without_its_progress_bar(load, shared, mnist_npz, mnist_arrays, monkeypatch, capsys):
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    assert is_mnist(load(lambda: pytest.fail("Keras was asked although MNIST_NPZ is set")), mnist_arrays)
    monkeypatch.setenv("MNIST_NPZ", "nowhere.npz")
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        load()
    monkeypatch.delenv("MNIST_NPZ")
    assert load(lambda: print("\r 1/9 [===>.....]", end="") or ("train", "test")) == ("train", "test")
    assert capsys.readouterr().out == ""


def test_shared_comes_third_and_a_network_that_hangs_is_cut_off(load, shared, mnist_arrays, monkeypatch):
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds, real=socket.setdefaulttimeout: real(seconds and 1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address, started = "http://127.0.0.1:%d/mnist.npz" % silent.getsockname()[1], time.monotonic()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert is_mnist(load(lambda: opener.open(address).read()), mnist_arrays)
        assert time.monotonic() - started < 20 and socket.getdefaulttimeout() is None


def test_no_source_is_one_clear_error(load, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load()
    for part in ("MNIST_NPZ", "load_data", str(tmp_path / "shared" / "mnist.npz"), "name resolution failed", "certifi", "damaged"):
        assert part in str(error.value), f"the error does not mention {part}"


@pytest.mark.parametrize("kind", ["truncated", "text", "an array missing", "pickled objects"])
def test_a_damaged_file(kind, load, mnist_arrays, mnist_npz, tmp_path):
    path, whole = tmp_path / "shared" / "mnist.npz", mnist_npz.read_bytes()
    if kind in ("truncated", "text"):
        path.write_bytes({"truncated": whole[:len(whole) // 2], "text": b"label,pixel0\n5,0\n"}[kind])
    else:
        last = {} if kind == "an array missing" else {"y_test": np.array([{}, {}], dtype=object)}
        np.savez(path, **{name: array for name, array in mnist_arrays.items() if name != "y_test"}, **last)
    with pytest.raises(ValueError, match="fetch it again"):
        load()


@pytest.mark.parametrize("change", [
    lambda a: dict(x_train_raw=a["x_train"][:-1]), lambda a: dict(x_train_raw=a["x_train"] ^ 1), lambda a: dict(y_test=a["y_test"].astype(int)),
    lambda a: dict(y_train_raw=np.random.default_rng(0).permutation(a["y_train"])), lambda a: dict(x_test_raw=a["x_train"], y_test=a["y_train"])])
def test_other_contents(change, committed, mnist_arrays):
    given = {name: mnist_arrays[name.removesuffix("_raw")] for name in ("x_train_raw", "y_train_raw", "x_test_raw", "y_test")}
    exec(by_id(committed, "check").source, {"hashlib": hashlib, **given})
    with pytest.raises(ValueError, match="is not MNIST's"):
        exec(by_id(committed, "check").source, {"hashlib": hashlib, **given, **change(mnist_arrays)})
