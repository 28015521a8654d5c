"""The notebook run again, in scratch copies: end to end, every cell twice, without training, and interrupted."""
import copy
import hashlib
import re
import shutil
import socket

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from conftest import (FIGURES, MODEL, NOTEBOOK, REPO, SCANS, accuracy_on_test, all_text, check_comparison, check_figure, check_speed, code_cells,
                      nbconvert, problems, read_notebook, scanning_table, texts, with_parameters)

TIMES = re.compile(r"[\d.,]+ (min|s|hours|digits a second)\b|\d+\.\d$|the folder .*|validation accuracy after .*", re.M)
SPEEDS = {"fast-table": r"^(\S.+?% +\d+) .*", "fast-summary": r"^(int8: .*)"}  # what of section 10.4 does not differ


def timeless(cell, name):
    """What the cell of this name shows, without what differs each time: times, the padding that depends on their width, the folder."""
    if name in SPEEDS:
        return re.findall(SPEEDS[name], texts(cell), re.M)
    lines = [line for line in TIMES.sub("(…)", texts(cell)).splitlines() if line]  # the kernel may send a text in two parts
    return [re.sub(r"[ -]+", " ", line) for line in lines]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def scratch(tmp_path, mnist_npz):
    """A copy of the submission in an empty folder, MNIST beside it; nothing of the working tree is touched."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mnist.npz").symlink_to(mnist_npz)
    repository = tmp_path / "mnist-digit-recognition"
    for folder in ("notebooks", "figures", "models"):
        shutil.copytree(REPO / folder, repository / folder, ignore=shutil.ignore_patterns("checkpoints", ".ipynb_checkpoints"))
    return repository


def run(nb, folder, **options):
    """Execute the notebook with `folder` as its working directory, as VS Code, Colab and Jupyter may."""
    NotebookClient(nb, resources={"metadata": {"path": str(folder)}}, kernel_name="python3", **options).execute()
    assert not problems(nb), "\n".join(problems(nb))


def test_end_to_end(scratch, mnist_npz):
    """The README's command on a copy whose results have been deleted: all of them come back, and they are good."""
    shutil.rmtree(scratch / "figures")
    shutil.rmtree(scratch / "models")
    before = {path: digest(path) for path in (REPO / NOTEBOOK, REPO / MODEL)}

    noise = nbconvert(scratch / NOTEBOOK, MNIST_NPZ=str(mnist_npz))

    nb = read_notebook(scratch / NOTEBOOK)
    assert not problems(nb), "\n".join(problems(nb))
    assert not noise, "the kernel wrote to stderr:\n" + "\n".join(noise)
    assert [cell.execution_count for cell in code_cells(nb)] == list(range(1, len(code_cells(nb)) + 1))
    for name in FIGURES:
        check_figure(scratch / "figures" / f"{name}.png")
    assert sorted(path.stem for path in (scratch / "figures").iterdir()) == sorted(FIGURES), "the run wrote other figures than the six"
    accuracy = accuracy_on_test(scratch / MODEL, mnist_npz)
    assert accuracy >= 0.996, f"a fresh run reaches only {accuracy:.2%} on the test set, the recipe gives 99.65 % and more"
    scans = scanning_table(nb)
    check_comparison(nb)
    check_speed(nb)
    assert min(scans[name] for name in SCANS) >= 90, f"under some scanning conditions the fresh run reads too little: {scans}"
    assert f"test accuracy: {accuracy:.2%}" in all_text(nb), "the notebook states another test accuracy than the model that it saved has"
    assert before == {path: digest(path) for path in before}, "the run changed the working tree"


def test_every_cell_twice(committed, mnist_npz, tmp_path, monkeypatch):
    """With each cell run twice in a row, every cell shows what it shows when each is run once.

    It runs where Colab would: the notebook alone in an empty folder, no clone, and behind a network that never answers.
    """
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mnist.npz").symlink_to(mnist_npz)
    once = with_parameters(committed, EPOCHS=2, COMPARISON_EPOCHS=1, PHOTOS=40, DOWNLOAD_TIMEOUT=3)
    first_use = next(i for i, cell in enumerate(once.cells) if "parameters" in cell.metadata.get("tags", []))
    once.cells.insert(first_use, nbformat.v4.new_code_cell("tf.config.experimental.enable_op_determinism()"))
    fewer = {"explore-md": "X_test, Y_test, y_test, x_test_raw = X_test[:2000], Y_test[:2000], y_test[:2000], x_test_raw[:2000]",
             "moved-md": "X_train, Y_train, y_train = X_train[:3000], Y_train[:3000], y_train[:3000]"}  # before this cell
    for name, source in fewer.items():
        at = next(i for i, cell in enumerate(once.cells) if cell.id == name)
        once.cells.insert(at, nbformat.v4.new_code_cell(source))
    for name, full, short in (("score-recipe", "SCANNED = 2000", "SCANNED = 200"), ("clock", "ROUNDS = 15", "ROUNDS = 1")):
        cell = next(cell for cell in once.cells if cell.id == name)
        assert full in cell.source, f"the cell {name} has no line '{full}' any more"
        cell.source = cell.source.replace(full, short)
    twice = copy.deepcopy(once)
    twice.cells = [copy.deepcopy(cell) for cell in once.cells for _ in range(2 if cell.cell_type == "code" else 1)]
    for i, cell in enumerate(twice.cells):
        cell.id = f"cell-{i}"

    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = "http://127.0.0.1:%d" % silent.getsockname()[1]
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("no_proxy", "NO_PROXY", "MNIST_NPZ"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))  # an empty cache
        for nb, folder in ((once, tmp_path / "content"), (twice, tmp_path / "content of another")):
            folder.mkdir()
            run(nb, folder)
            assert sorted(path.stem for path in (folder / "figures").iterdir()) == sorted(FIGURES)

    different = []
    for single, first, second in zip(code_cells(once), code_cells(twice)[::2], code_cells(twice)[1::2]):
        shown = [timeless(cell, single.id) for cell in (single, first, second)]
        assert shown[0] or single.id not in SPEEDS, f"{single.id} shows nothing that could be compared"
        if not shown[0] == shown[1] == shown[2]:
            different.append(f"{single.source.splitlines()[0]!r}\n--- once ---\n{texts(single)}\n--- the first time ---\n"
                             f"{texts(first)}\n--- the second time ---\n{texts(second)}")
    assert not different, "with every cell run twice, these give another result:\n\n" + "\n\n".join(different)
    assert accuracy_on_test(tmp_path / "content of another" / MODEL, mnist_npz) >= 0.97


def test_without_training(committed, scratch, mnist_npz, monkeypatch):
    """RETRAIN = False and no comparison, started at the repository's root: the saved model is used, left alone, and gives the stated accuracy."""
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    before = digest(scratch / MODEL)
    nb = with_parameters(committed, RETRAIN=False, RUN_COMPARISON=False, PHOTOS=40)
    run(nb, scratch)
    assert digest(scratch / MODEL) == before, "RETRAIN = False rewrote the saved model"
    assert "nothing was trained" in all_text(nb) and "section 9 are skipped" in all_text(nb)
    accuracy = accuracy_on_test(REPO / MODEL, mnist_npz)
    assert f"test accuracy: {accuracy:.2%}" in all_text(nb)


def test_the_upload_button_appears_where_a_person_is(committed, mnist_npz, scratch, monkeypatch):
    """In Jupyter, whose server sets JPY_SESSION_NAME, the cell shows a button, and an upload is read with the saved model."""
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    monkeypatch.setenv("JPY_SESSION_NAME", "mnist_classification.ipynb")
    nb = with_parameters(committed, RETRAIN=False, RUN_COMPARISON=False, PHOTOS=40)
    skipped = ("others-", "scan", "photo-", "augment-check", "edges")
    nb.cells = [cell for cell in nb.cells if not cell.id.startswith(skipped)]
    own = next(i for i, cell in enumerate(nb.cells) if cell.id == "own-digit")
    upload = nbformat.v4.new_code_cell(
        "file = io.BytesIO()\nphotograph(x_test_raw[0], np.random.default_rng(1)).save(file, 'PNG')\n"
        "show_reading(PIL.Image.open(file))\nprint(read_digit(PIL.Image.open(file)))\n"
        "import datetime\nnow = datetime.datetime.now(datetime.timezone.utc)\n"
        "button.value = ({'name': 'a.txt', 'type': 'text/plain', 'size': 4, 'content': memoryview(b'text'), 'last_modified': now},)")
    nb.cells = [*nb.cells[:own + 1], upload]
    run(nb, scratch)
    shown = [data for output in nb.cells[own].outputs for data in output.get("data", {})]
    assert "application/vnd.jupyter.widget-view+json" in shown, "the cell shows no button"
    assert "Reading(digit=7" in texts(upload) and any("image/png" in output.get("data", {}) for output in upload.outputs)


def test_without_training_and_without_a_model(committed, scratch, mnist_npz, monkeypatch):
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    (scratch / MODEL).unlink()
    with pytest.raises(CellExecutionError) as error:
        run(with_parameters(committed, RETRAIN=False, RUN_COMPARISON=False, PHOTOS=40), scratch)
    assert error.value.ename == "FileNotFoundError" and "set RETRAIN = True" in error.value.evalue, error.value.evalue


def test_without_training_and_with_a_damaged_model(committed, scratch, mnist_npz, monkeypatch):
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    (scratch / MODEL).write_bytes((scratch / MODEL).read_bytes()[:100_000])
    with pytest.raises(CellExecutionError) as error:
        run(with_parameters(committed, RETRAIN=False, RUN_COMPARISON=False, PHOTOS=40), scratch)
    assert error.value.ename == "ValueError" and "cannot be loaded with Keras" in error.value.evalue, error.value.evalue


def test_interrupted_training(committed, scratch, mnist_npz, monkeypatch):
    """The training cell is interrupted, and whoever then runs all the rest must not overwrite the saved model."""
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    before = digest(scratch / MODEL)
    nb = with_parameters(committed, EPOCHS=25, RUN_COMPARISON=False)
    train = next(i for i, cell in enumerate(nb.cells) if cell.id == "train")
    interrupt = nbformat.v4.new_code_cell("import _thread\nthreading.Timer(15, _thread.interrupt_main).start()")
    nb.cells.insert(train, interrupt)
    client = NotebookClient(nb, resources={"metadata": {"path": str(scratch)}}, kernel_name="python3", allow_errors=True)
    client.execute()
    errors = {cell.id: output.ename for cell in code_cells(nb) for output in cell.outputs if output.output_type == "error"}
    assert errors.get("train") == "KeyboardInterrupt", f"the training was not interrupted: {errors}"
    assert errors.get("save") == "NameError", "after an interrupted training the cell that saves found a model to save"
    assert digest(scratch / MODEL) == before, "an interrupted training changed the saved model"
