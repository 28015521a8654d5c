"""load_mnist: every source and format, and every way in which one can be bad."""

import gzip
import shutil
import socket
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import loader_of
from submission import cell_of

IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def no_network(name):
    raise OSError("URL fetch failure: name resolution failed")


@pytest.fixture
def load(committed, tmp_path, monkeypatch):
    """A function that calls load_mnist in an empty repository, without a network."""
    monkeypatch.delenv("MNIST_NPZ", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "repository").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "keras/datasets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository")

    def call(load_data=no_network):
        mnist = SimpleNamespace(load_data=load_data)
        return loader_of(committed, mnist, kaggle=tmp_path / "kaggle")["load_mnist"]()

    return call


def not_asked(name):
    pytest.fail("Keras was asked although there is a copy of MNIST")


def check_is_mnist(loaded, arrays):
    (x_train, y_train), (x_test, y_test) = loaded
    np.testing.assert_array_equal(x_train, arrays["x_train"])
    np.testing.assert_array_equal(y_train, arrays["y_train"])
    np.testing.assert_array_equal(x_test, arrays["x_test"])
    np.testing.assert_array_equal(y_test, arrays["y_test"])


# the sources


def test_mnist_npz_comes_first(load, mnist_npz, mnist_arrays, monkeypatch, tmp_path):
    (tmp_path / "shared/mnist.npz").write_text("not asked for, either")
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    check_is_mnist(load(not_asked), mnist_arrays)


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'", " {} \r\n"])
def test_quotation_marks_are_stripped(quoted, load, mnist_npz, monkeypatch):
    monkeypatch.setenv("MNIST_NPZ", quoted.format(mnist_npz))
    load(not_asked)


def test_mnist_npz_that_is_missing_is_named(load, monkeypatch):
    monkeypatch.setenv("MNIST_NPZ", "nowhere.npz")
    with pytest.raises(FileNotFoundError, match="nowhere.npz does not exist"):
        load()


@pytest.mark.parametrize(
    "place",
    ["keras/datasets/mnist.npz", "kaggle/mnist-npz/mnist.npz", "shared/mnist.npz"],
)
def test_a_copy_on_this_computer_is_used(place, load, mnist_npz, tmp_path):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(mnist_npz, tmp_path / place)
    load(not_asked)
    assert (tmp_path / place).read_bytes() == mnist_npz.read_bytes()


def test_keras_is_asked_if_there_is_no_copy(load):
    asked = []

    def load_data(name):
        asked.append(name)
        return "train", "test"

    assert load(load_data) == ("train", "test")
    assert asked == ["mnist.npz"]


@pytest.mark.parametrize("place", ["keras/datasets/mnist.npz", "shared/mnist.npz"])
def test_keras_is_asked_if_the_copy_is_bad(place, load, tmp_path):
    (tmp_path / place).write_text("no digits here")
    assert load(lambda name: "downloaded") == "downloaded"


def test_a_bad_file_of_keras_name_is_not_given_to_keras(load, tmp_path):
    (tmp_path / "keras/datasets/mnist.npz").write_text("somebody's own digits")
    with pytest.raises(FileNotFoundError, match="is not the published MNIST"):
        # as Keras does if the download fails
        load(lambda name: (tmp_path / "keras/datasets" / name).unlink())
    assert (tmp_path / "keras/datasets/mnist.npz").exists()


def test_keras_shows_no_progress_bar(load, capsys):
    load(lambda name: print("\r 1/9 [===>.....]", end=""))
    assert capsys.readouterr().out == ""


def test_a_silent_network_is_given_up(load, monkeypatch):
    set_timeout = socket.setdefaulttimeout

    def shortened(seconds):
        assert seconds is None or 0 < seconds <= 60, "do not wait longer than a minute"
        set_timeout(seconds and 1)

    monkeypatch.setattr(socket, "setdefaulttimeout", shortened)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/mnist.npz"
        started = time.monotonic()
        with pytest.raises(FileNotFoundError, match="timed out"):
            load(lambda name: direct.open(address).read())
    assert time.monotonic() - started < 20
    assert socket.getdefaulttimeout() is None, "put the time limit back"


@pytest.mark.parametrize(
    "part", ["MNIST_NPZ", "load_data", "name resolution failed", "certifi", "shared"]
)
def test_no_source_is_one_clear_error(part, load):
    with pytest.raises(FileNotFoundError, match=part):
        load()


# the formats


def idx(array):
    """The bytes of an IDX file: type, number of dimensions, their lengths, values."""
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()


def write_idx(folder, arrays, separator="-", compressed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for key, name in IDX_NAMES.items():
        name = name.replace("-idx", f"{separator}idx")
        content = idx(arrays[key])
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / name).write_bytes(content)


def hyphens(folder, arrays):
    write_idx(folder, arrays)


def dots_compressed(folder, arrays):
    write_idx(folder, arrays, separator=".", compressed=True)


def short_names(folder, arrays):
    write_idx(folder, arrays, separator=".")
    for path in list(folder.iterdir()):
        path.rename(str(path).removesuffix("-ubyte"))


def as_torchvision(folder, arrays):
    write_idx(folder / "MNIST/raw", arrays)
    write_idx(folder / "MNIST/raw", arrays, compressed=True)


def as_on_kaggle(folder, arrays):
    """Each file in a folder of its own name, and once more beside them."""
    write_idx(folder, arrays, separator=".")
    for name in IDX_NAMES.values():
        (folder / name).mkdir()
        shutil.copy(folder / name.replace("-idx", ".idx"), folder / name / name)


def with_other_files(folder, arrays):
    write_idx(folder, arrays)
    (folder / "read-me-ubyte.txt").write_text("about these files")
    (folder / "mnist_train.csv").write_text("a;b\n1;2\n")
    (folder / "other.zip").write_text("this is no zip file")


@pytest.mark.parametrize(
    "write",
    [
        hyphens,
        dots_compressed,
        short_names,
        as_torchvision,
        as_on_kaggle,
        with_other_files,
    ],
)
def test_a_folder_of_idx_files(write, load, mnist_arrays, monkeypatch, tmp_path):
    write(tmp_path / "data", mnist_arrays)
    monkeypatch.setenv("MNIST_NPZ", str(tmp_path / "data"))
    check_is_mnist(load(not_asked), mnist_arrays)


def test_a_zip_of_idx_files(load, mnist_arrays, monkeypatch, tmp_path):
    write_idx(tmp_path / "data", mnist_arrays, compressed=True)
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "data")
    monkeypatch.setenv("MNIST_NPZ", archive)
    check_is_mnist(load(not_asked), mnist_arrays)


@pytest.fixture(scope="module")
def csv_lines(mnist_arrays):
    """{"train" or "test": the lines of the CSV file without column names}."""
    lines = {}
    for part in ("train", "test"):
        pixels = mnist_arrays[f"x_{part}"].reshape(-1, 784)
        table = np.column_stack([mnist_arrays[f"y_{part}"], pixels])
        lines[part] = pd.DataFrame(table).to_csv(index=False, header=False)
    return lines


def write_csv(folder, csv_lines, first_line):
    folder.mkdir()
    for part, lines in csv_lines.items():
        (folder / f"mnist_{part}.csv").write_text(first_line + lines)


COLUMN_NAMES = ",".join(["label"] + [f"pixel{i}" for i in range(784)]) + "\n"


@pytest.mark.parametrize("first_line", ["", COLUMN_NAMES], ids=["no names", "names"])
def test_a_folder_of_csv_files(
    first_line, load, csv_lines, mnist_arrays, monkeypatch, tmp_path
):
    write_csv(tmp_path / "data", csv_lines, first_line)
    monkeypatch.setenv("MNIST_NPZ", str(tmp_path / "data"))
    check_is_mnist(load(not_asked), mnist_arrays)


def test_kaggles_input_folder(load, csv_lines, mnist_arrays, tmp_path):
    (tmp_path / "kaggle").mkdir()
    write_csv(tmp_path / "kaggle/mnist-in-csv", csv_lines, COLUMN_NAMES)
    check_is_mnist(load(not_asked), mnist_arrays)


# bad files


def save_npz(path, **arrays):
    with path.open("wb") as file:  # given the path, NumPy would change the name
        np.savez(file, **arrays)


def truncated(path, arrays):
    save_npz(path, **arrays)
    path.write_bytes(path.read_bytes()[:20_000_000])


def text(path, arrays):
    path.write_bytes(b"label,pixel0\n5,0\n")


def an_array_missing(path, arrays):
    save_npz(path, x_train=arrays["x_train"], y_train=arrays["y_train"])


def python_objects(path, arrays):
    objects = np.array([{}, {}], dtype=object)
    save_npz(path, **{**arrays, "y_test": objects})


def other_keys(path, arrays):
    save_npz(path, images=arrays["x_train"], labels=arrays["y_train"])


def signed_bytes(path, arrays):
    save_npz(path, **{key: array.view("int8") for key, array in arrays.items()})


def one_array(path, arrays):
    with path.open("wb") as file:
        np.save(file, arrays["x_train"])


def one_idx_file(path, arrays):
    path.write_bytes(idx(arrays["x_train"]))


@pytest.mark.parametrize(
    "write",
    [
        truncated,
        text,
        an_array_missing,
        python_objects,
        other_keys,
        signed_bytes,
        one_array,
        one_idx_file,
    ],
)
def test_a_bad_file(write, load, mnist_arrays, monkeypatch, tmp_path):
    write(tmp_path / "bad-ubyte", mnist_arrays)
    monkeypatch.setenv("MNIST_NPZ", str(tmp_path / "bad-ubyte"))
    with pytest.raises(ValueError, match="bad-ubyte is not the published") as error:
        load(not_asked)
    message = str(error.value)
    assert "must be an .npz with x_train, y_train, x_test and y_test" in message
    assert "four files" in message
    assert "mnist_train.csv" in message
    assert "pickle" not in message, "advice to unpickle would be unsafe"


# the fingerprints of what was loaded


@pytest.fixture
def loaded(committed, mnist_arrays):
    """The variables that the fingerprint cell reads."""
    return {
        **loader_of(committed, mnist=None),
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


def as_signed_bytes(given):
    given["x_test_raw"] = given["x_test_raw"].view("int8")


def labels_shuffled(given):
    given["y_train_raw"] = np.random.default_rng(0).permutation(given["y_train_raw"])


def training_as_test(given):
    given["x_test_raw"] = given["x_train_raw"]


def in_one_row(given):
    given["x_test_raw"] = given["x_test_raw"].reshape(10_000, 784)


@pytest.mark.parametrize(
    "change",
    [
        shorter,
        one_bit_flipped,
        labels_as_int64,
        as_signed_bytes,
        labels_shuffled,
        training_as_test,
        in_one_row,
    ],
)
def test_other_contents_are_refused(change, committed, loaded):
    change(loaded)
    with pytest.raises(ValueError, match="is not the published MNIST"):
        exec(cell_of(committed, "check").source, loaded)
