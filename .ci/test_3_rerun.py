"""The notebook run again in scratch copies: end to end, every cell twice, without training, and interrupted."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from conftest import FIGURES, MODEL, NOTEBOOK, REPO, accuracy_on_test, by_id, check_figure, code_cells, problems, run, texts, with_parameters
from test_1_committed import test_comparison as check_comparison

TIMED = {"train", "recipe-results", "recipe-chart", "clock", "speed-table", "goals"}  # they show times


@pytest.fixture
def scratch(tmp_path, mnist_npz, monkeypatch):
    """A copy of the submission in an empty folder; nothing of the working tree is touched."""
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    for folder in ("notebooks", "figures", "models"):
        shutil.copytree(REPO / folder, tmp_path / folder, ignore=shutil.ignore_patterns("checkpoints", ".ipynb_checkpoints"))
    return tmp_path


def test_end_to_end(scratch, mnist_arrays):
    from tensorflow import keras

    shutil.rmtree(scratch / "figures")
    shutil.rmtree(scratch / "models")
    ran = subprocess.run([Path(sys.executable).parent / "jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace",
                          "--allow-errors", scratch / NOTEBOOK], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert ran.returncode == 0, f"jupyter nbconvert failed:\n{ran.stdout}\n{ran.stderr}"
    noise = [line for line in ran.stderr.splitlines() if line.strip() and not re.match(r"\[\w+App\]", line)]
    nb = nbformat.read(scratch / NOTEBOOK, as_version=4)
    assert not noise and not problems(nb), "\n".join([*noise, problems(nb)])
    for name in FIGURES:
        check_figure(scratch / "figures" / f"{name}.png")
    assert sorted(path.stem for path in (scratch / "figures").iterdir()) == sorted(FIGURES), "the run wrote other figures"
    accuracy = accuracy_on_test(keras.models.load_model(scratch / MODEL), mnist_arrays)
    assert accuracy >= 0.9955 and f"test accuracy: {accuracy:.2%}" in texts(by_id(nb, "predict")), f"a fresh run reads {accuracy:.2%}"
    check_comparison(nb)


def test_every_cell_twice(committed, mnist_npz, tmp_path, monkeypatch):
    """Every cell shows the same when each is run once and when each is run twice in a row, without a clone, as on Colab."""
    monkeypatch.setenv("MNIST_NPZ", str(mnist_npz))
    once = with_parameters(committed, EPOCHS=1)
    for before, names, n in (("explore-md", ["X_test", "Y_test", "y_test"], 1000), ("needle-md", ["X_train", "X_world", "Y_train"], 2560)):
        fewer = "\n".join(f"{name} = {name}[:{n}]" for name in names)
        once.cells.insert(once.cells.index(by_id(once, before)), nbformat.v4.new_code_cell(fewer))
    for name, full, short in (("run-recipe", "epochs=8", "epochs=1"), ("run-recipes", "RECIPES.items()", "list(RECIPES.items())[4:8]"),
                              ("others", "others.images)", "others.images[:200])"), ("clock", "range(15)", "range(1)")):
        assert full in by_id(once, name).source, f"the cell {name} has no '{full}' any more"
        by_id(once, name).source = by_id(once, name).source.replace(full, short)
    twice = nbformat.v4.new_notebook(metadata=once.metadata)
    twice.cells = [nbformat.v4.new_code_cell(cell.source) for cell in code_cells(once) for _ in range(2)]
    for nb, folder in ((once, tmp_path / "content"), (twice, tmp_path / "again")):
        folder.mkdir()
        run(nb, folder)
        assert not problems(nb), problems(nb)
    for single, *pair in zip(code_cells(once), twice.cells[::2], twice.cells[1::2]):
        shown = [re.sub(r"[\d.]+ min|in \d+ s| at 0x\w+", "", texts(cell)) for cell in (single, *pair)]
        assert single.id in TIMED or shown[0] == shown[1] == shown[2], f"{single.id} run twice shows:\n" + "\n---\n".join(shown)


def test_without_training(committed, scratch):
    before = (scratch / MODEL).read_bytes()
    nb = with_parameters(committed, RETRAIN=False, RUN_COMPARISON=False)
    run(nb, scratch / "notebooks")
    assert not problems(nb), problems(nb)
    assert (scratch / MODEL).read_bytes() == before and texts(by_id(nb, "predict")) == texts(by_id(committed, "predict"))


def test_interrupted_training(committed, scratch):
    """The training cell is interrupted, and whoever then runs all the rest must not overwrite the saved model."""
    before = (scratch / MODEL).read_bytes()
    nb = with_parameters(committed, EPOCHS=25, RUN_COMPARISON=False)
    interrupt = nbformat.v4.new_code_cell("import _thread, threading\nthreading.Timer(15, _thread.interrupt_main).start()")
    nb.cells.insert(nb.cells.index(by_id(nb, "train")), interrupt)
    nb.cells = nb.cells[:nb.cells.index(by_id(nb, "save")) + 1]
    run(nb, scratch, allow_errors=True)
    errors = {cell.id: output.ename for cell in code_cells(nb) for output in cell.outputs if output.output_type == "error"}
    assert errors.get("train") == "KeyboardInterrupt" and (scratch / MODEL).read_bytes() == before, f"the errors were {errors}"
