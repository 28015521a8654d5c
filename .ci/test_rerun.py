"""The notebook run again in scratch copies."""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import copy_submission
from submission import (
    FIGURES,
    MODEL,
    NOTEBOOK,
    REPO,
    accuracy,
    cell_of,
    check_figure,
    code_cells,
    insert_before,
    number_in,
    problems,
    replace_in,
    rows_of,
    run,
    shown,
    with_parameters,
)

SHOW_TIMES = {
    "train",
    "clock",
    "speed-table",
    "goals",
}


@pytest.fixture(scope="module")
def fresh_run(committed, mnist_npz, tmp_path_factory):
    """The folder of a full run by the README's command, without figures and models."""
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "notebooks").mkdir()
    shutil.copy(REPO / "requirements.txt", folder)
    nbformat.write(committed, folder / NOTEBOOK)
    jupyter = Path(sys.executable).parent / "jupyter"
    command = [jupyter, "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNIST_NPZ", str(mnist_npz))
        patch.delenv("TF_CPP_MIN_LOG_LEVEL")  # the notebook sets it itself
        ran = subprocess.run(
            [*command, "--allow-errors", folder / NOTEBOOK],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    assert ran.returncode == 0, f"nbconvert failed:\n{ran.stdout}\n{ran.stderr}"
    (folder / "stderr.txt").write_text(ran.stderr)
    return folder


@pytest.fixture(scope="module")
def fresh_notebook(fresh_run):
    return nbformat.read(fresh_run / NOTEBOOK, as_version=4)


def test_fresh_run_is_clean(fresh_notebook):
    assert not problems(fresh_notebook), "\n".join(problems(fresh_notebook))


def test_fresh_run_warns_of_nothing(fresh_run):
    lines = (fresh_run / "stderr.txt").read_text().splitlines()
    # what nbconvert does, and the kernel's own note on how it is reached
    report = r"\[NbConvertApp\] (?!WARNING|ERROR|CRITICAL)|\[IPKernelApp\]"
    noise = [line for line in lines if line.strip() and not re.match(report, line)]
    assert not noise, "\n".join(noise)


@pytest.mark.parametrize("name", FIGURES)
def test_fresh_run_writes_the_figure(name, fresh_run):
    check_figure(fresh_run / "figures" / f"{name}.png")


def test_fresh_run_writes_no_other_figure(fresh_run):
    found = {path.stem for path in (fresh_run / "figures").iterdir()}
    assert found == set(FIGURES)


def test_fresh_run_reads_well_and_says_so(fresh_run, fresh_notebook, x_test, y_test):
    from tensorflow import keras

    measured = accuracy(keras.models.load_model(fresh_run / MODEL), x_test, y_test)
    assert measured >= 0.9955
    assert f"test accuracy: {measured:.2%}" in shown(cell_of(fresh_notebook, "predict"))


QUICK_ROWS = [
    "R4b CNN 32, 64, dropout",
    "course, two blocks",
    "course, two blocks, moves",
    "final, no augmentation",
    "final, moves, bends",
    "final, moves, bends, scans",
    "final, all",
]


def small_and_quick(committed):
    """The notebook on few images, with one epoch and a short comparison."""
    nb = with_parameters(committed, TRAINING_IMAGES=2560, EPOCHS=1)
    insert_before(
        nb,
        "explore-md",
        "X_test, Y_test, y_test = X_test[:1000], Y_test[:1000], y_test[:1000]",
    )
    replace_in(nb, "run-row", "epochs=6", "epochs=1")
    few = "[row for row in ROWS if row[0] in {}]".format(QUICK_ROWS)
    replace_in(nb, "run-rows", "in ROWS", f"in {few}")
    replace_in(nb, "rules", "[:100]", "[:2]")
    replace_in(nb, "clock", "range(15)", "range(1)")
    return nb


def without_times(cell):
    return re.sub(r"[\d.]+ min|in \d+ s| at 0x\w+", "", shown(cell))


@pytest.fixture(scope="module")
def once_and_twice(committed, mnist_npz, tmp_path_factory):
    """A small run without a clone, as on Colab, and one with every cell run twice."""
    once = small_and_quick(committed)
    twice = copy.deepcopy(once)
    twice.cells = []
    for cell in code_cells(once):
        for turn in ("first", "second"):
            again = nbformat.v4.new_code_cell(cell.source, id=f"{cell.id}-{turn}")
            twice.cells.append(again)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNIST_NPZ", str(mnist_npz))
        run(once, tmp_path_factory.mktemp("once"))
        run(twice, tmp_path_factory.mktemp("twice"))
    return once, twice


def test_every_cell_can_be_run_twice(once_and_twice):
    once, twice = once_and_twice
    assert not problems(once), "\n".join(problems(once))
    assert not problems(twice), "\n".join(problems(twice))


def test_every_cell_run_twice_shows_the_same(once_and_twice):
    once, twice = once_and_twice
    first, second = twice.cells[::2], twice.cells[1::2]
    for single, a, b in zip(code_cells(once), first, second):
        if single.id not in SHOW_TIMES:
            assert without_times(a) == without_times(
                single
            ), f"{single.id}, run once more before"
            assert without_times(b) == without_times(single), f"{single.id}, run twice"


def contents(folder):
    """The bytes of the committed files in models/."""
    files = sorted((folder / "models").glob("*.*"))
    return {file.name: file.read_bytes() for file in files}


def test_part_of_the_images_leaves_the_saved_model_alone(committed, scratch):
    before = contents(scratch)
    nb = small_and_quick(committed)
    # as in a kernel that used the saved model before
    insert_before(nb, "train", "model_is_saved = True")
    nb.cells = nb.cells[: nb.cells.index(cell_of(nb, "needle-md"))]
    nb.cells.append(nbformat.v4.new_code_cell("print(model_is_saved)"))
    run(nb, scratch)
    assert contents(scratch) == before
    assert "is unchanged" in shown(cell_of(nb, "save"))
    assert shown(nb.cells[-1]).strip() == "False", "section 14 would save its file"


@pytest.fixture(scope="module")
def without_training(committed, mnist_npz, tmp_path_factory):
    """The submission run with both switches False: the notebook and its folder."""
    folder = tmp_path_factory.mktemp("without-training")
    copy_submission(folder)
    nb = with_parameters(committed, RETRAIN=False, RUN_COMPARISON=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNIST_NPZ", str(mnist_npz))
        run(nb, folder / "notebooks")
    return nb, folder


def test_without_training_is_clean(without_training):
    nb, _ = without_training
    assert not problems(nb), "\n".join(problems(nb))


def test_without_training_leaves_the_model_alone(without_training):
    _, folder = without_training
    assert contents(folder) == contents(REPO)


@pytest.mark.parametrize("name", ["train-result", "predict", "report"])
def test_without_training_shows_the_saved_run(name, without_training, committed):
    nb, _ = without_training
    assert shown(cell_of(nb, name)) == shown(cell_of(committed, name))


def error_of(nb, name):
    """The message of the one error of a cell."""
    outputs = cell_of(nb, name).outputs
    (error,) = [output for output in outputs if output.output_type == "error"]
    return error.evalue


INTERRUPT = """
class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == {epoch}:
            raise KeyboardInterrupt
"""


def interrupted(committed, folder, epoch):
    """The notebook up to section 8, with training interrupted as this epoch begins."""
    nb = with_parameters(committed, TRAINING_IMAGES=1280)
    insert_before(nb, "train", INTERRUPT.format(epoch=epoch))
    replace_in(nb, "train", "callbacks = [", "callbacks = [Interrupt(), ")
    nb.cells = nb.cells[: nb.cells.index(cell_of(nb, "save")) + 1]
    run(nb, folder, allow_errors=True)
    return nb


def test_interrupted_training_goes_on_with_the_best_weights(committed, scratch):
    nb = interrupted(committed, scratch, epoch=3)
    assert not problems(nb), "\n".join(problems(nb))
    assert "the best weights so far" in shown(cell_of(nb, "train"))
    text = shown(cell_of(nb, "train-result"))
    assert "of 3" in text, "show the epochs so far"
    best = number_in(text, "validation loss:")
    validation = next(row for row in rows_of(nb, "parts") if row[0] == "validation")
    assert abs(float(validation[1]) - best) < 0.0002, "set the best weights"


def test_interrupted_first_epoch_leaves_the_saved_model_alone(committed, scratch):
    before = (scratch / MODEL).read_bytes()
    nb = interrupted(committed, scratch, epoch=0)
    assert (
        error_of(nb, "train") == "Not even one epoch is complete: run this cell again."
    )
    assert error_of(nb, "train-result").startswith("No training has ended yet")
    assert (scratch / MODEL).read_bytes() == before


def test_a_loss_that_is_no_number_ends_the_training(committed, scratch):
    before = contents(scratch)
    nb = with_parameters(committed, TRAINING_IMAGES=1280)
    insert_before(nb, "train", "Y_train = Y_train * np.nan")
    nb.cells = nb.cells[: nb.cells.index(cell_of(nb, "train")) + 1]
    run(nb, scratch, allow_errors=True)
    assert "The loss is no longer a number" in error_of(nb, "train")
    assert "Epoch 2/" not in shown(nb.cells[-1])
    assert contents(scratch) == before
