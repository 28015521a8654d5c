"""What is checked before the long work, and the settings of other computers."""

import contextlib
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from nbconvert import PythonExporter
from submission import MODEL, NOTEBOOK, REPO, cell_of, function_of, with_parameters

PARAMETERS = {
    "SEED": 42,
    "TRAINING_IMAGES": 54_000,
    "EPOCHS": 26,
    "BATCH_SIZE": 128,
    "RETRAIN": True,
    "RUN_COMPARISON": True,
}


@pytest.fixture
def check(committed):
    """A function that runs the cell "checks" in the current folder."""
    imports = cell_of(committed, "imports").source

    def call(**changed):
        names = {**PARAMETERS, **changed}
        exec(imports, names)
        exec(cell_of(committed, "checks").source, names)

    return call


@pytest.fixture
def clone(tmp_path):
    """The files by which a clone is recognised."""
    (tmp_path / "clone/notebooks").mkdir(parents=True)
    (tmp_path / "clone" / NOTEBOOK).touch()
    (tmp_path / "clone/requirements.txt").touch()
    return tmp_path / "clone"


@pytest.mark.parametrize(
    "name, value",
    [
        ("SEED", -1),
        ("SEED", None),
        ("TRAINING_IMAGES", 0),
        ("TRAINING_IMAGES", 60_000),
        ("TRAINING_IMAGES", 5_000.0),
        ("EPOCHS", 0),
        ("BATCH_SIZE", 0),
        ("RETRAIN", "no"),
        ("RUN_COMPARISON", None),
    ],
)
def test_an_impossible_parameter_is_named(name, value, check, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{name} is {value!r}, but it must be in"):
        check(**{name: value})


@pytest.mark.parametrize("place", [".", "notebooks", "notebooks/deeper", ".."])
def test_the_root_is_found(place, check, clone, monkeypatch):
    (clone / "notebooks/deeper").mkdir()
    monkeypatch.chdir(clone / place)
    check()
    assert os.getcwd() == str(clone)


def test_a_clone_called_notebooks(check, clone, monkeypatch):
    renamed = clone.rename(clone.parent / "notebooks")
    monkeypatch.chdir(renamed / "notebooks")
    for _ in range(2):
        check()
        assert os.getcwd() == str(renamed)


def test_without_a_clone_the_current_folder_is_used(
    check, monkeypatch, tmp_path, capsys
):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    check()
    assert "was not found" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "notebooks")) == ["figures", "models"]


def test_of_two_clones_below_none_is_taken(check, clone, monkeypatch):
    shutil.copytree(clone, clone.parent / "another clone")
    monkeypatch.chdir(clone.parent)
    check()
    assert os.getcwd() == str(clone.parent)


def test_the_checks_leave_the_files_as_they_are(check, scratch, monkeypatch):
    before = (scratch / MODEL).read_bytes()
    (scratch / "models/.ipynb_checkpoints").mkdir()  # as JupyterLab does
    monkeypatch.chdir(scratch / "notebooks")
    check()
    assert (scratch / MODEL).read_bytes() == before
    assert sorted(os.listdir(scratch)) == sorted(
        ["figures", "models", "notebooks", "requirements.txt"]
    )


@pytest.mark.parametrize("folder, file", [("models", MODEL.name), ("figures", "a.png")])
def test_a_file_that_cannot_be_written(folder, file, check, clone, monkeypatch):
    # opening a folder fails on every system and for every user, as locked files do
    (clone / folder / file).mkdir(parents=True)
    monkeypatch.chdir(clone)
    with pytest.raises(OSError, match=f"{folder}/ cannot be written"):
        check()


@pytest.mark.parametrize("folder", ["figures", "models", "models/checkpoints"])
def test_a_folder_that_cannot_be_made(folder, check, clone, monkeypatch):
    (clone / folder).parent.mkdir(exist_ok=True)
    (clone / folder).write_text("a file, where a folder is needed")
    monkeypatch.chdir(clone)
    with pytest.raises(OSError, match=f"{folder}/ cannot be written"):
        check()


def test_models_need_not_be_writable_without_training(check, clone, monkeypatch):
    (clone / MODEL).mkdir(parents=True)
    monkeypatch.chdir(clone)
    check(RETRAIN=False)


def run_saved(committed, keras):
    names = {"RETRAIN": False, "keras": keras, "pd": pd}
    exec(cell_of(committed, "saved-run").source, names)


def test_no_saved_model_says_what_to_do(committed, tmp_path, monkeypatch):
    from tensorflow import keras

    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="clone the repository, .*set RETRAIN = True"
    ):
        run_saved(committed, keras)


def test_a_damaged_model_says_what_to_do(committed, scratch, monkeypatch):
    from tensorflow import keras

    (scratch / MODEL).write_bytes((scratch / MODEL).read_bytes()[:1_000_000])
    monkeypatch.chdir(scratch)
    with pytest.raises(FileNotFoundError, match="git checkout models"):
        run_saved(committed, keras)


def test_a_damaged_log_says_what_to_do(committed, scratch, monkeypatch):
    from tensorflow import keras

    (scratch / "models/training_log.txt").write_text("accuracy;loss\n")
    monkeypatch.chdir(scratch)
    with pytest.raises(FileNotFoundError, match="training_log.txt cannot be read"):
        run_saved(committed, keras)


@pytest.fixture
def put_back_on_failure(committed):
    names = {}
    exec(cell_of(committed, "imports").source, names)
    exec(cell_of(committed, "older-keras").source, names)
    return names["put_back_on_failure"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failing_to_save_puts_the_old_file_back(error, put_back_on_failure, tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("the old network")
    with pytest.raises(error):
        with put_back_on_failure(path):
            path.write_text("half of the")
            raise error
    assert path.read_text() == "the old network"


def test_failing_to_save_leaves_no_half_file(put_back_on_failure, tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(OSError):
        with put_back_on_failure(path):
            path.write_text("half of the")
            raise OSError("No space left on device")
    assert not path.exists()


# settings from elsewhere

KERAS_JSON = """{"floatx": "float16", "image_data_format": "channels_first",
                 "epsilon": 0.1, "backend": "torch"}"""
FOREIGN_SETTINGS = {
    "KERAS_BACKEND": "jax",
    "KERAS_MAX_EPOCHS": "1",
    "TF_USE_LEGACY_KERAS": "1",
}


def test_settings_from_elsewhere(committed, x_test, tmp_path):
    (tmp_path / "keras.json").write_text(KERAS_JSON)
    np.save(tmp_path / "x.npy", x_test[:50])
    lines = [cell_of(committed, name).source for name in ("imports", "tensorflow")]
    lines.append(f"""
model = keras.models.load_model({str(REPO / MODEL)!r})
images = np.load({str(tmp_path / "x.npy")!r})
batch = next(ImageDataGenerator(rotation_range=9).flow(images, batch_size=50))
print(keras.config.epsilon(), keras.config.max_epochs())
print(batch.shape, batch.dtype, model.predict(batch, verbose=0).dtype)""")
    environment = {"KERAS_HOME": str(tmp_path), **FOREIGN_SETTINGS}
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.endswith("1e-07 None\n(50, 28, 28, 1) float32 float32\n")


# TensorFlow Lite


class UnsureModel:
    """Takes the place of the network: every digit is as probable as any other."""

    def predict(self, images, verbose):
        return np.full((len(images), 10), 0.1)

    def __call__(self, images, training):
        return SimpleNamespace(numpy=lambda: self.predict(images, verbose=0))


@pytest.mark.parametrize("failing", ["Lite, float32", "Lite, 8 bits"])
def test_a_failing_lite_leaves_out_its_row(failing, committed, capsys):
    names = {}
    exec(cell_of(committed, "imports").source, names)

    def lite_reader(file):
        if file == failing:
            raise RuntimeError("this processor is not supported")
        return lambda images: np.full((len(images), 10), 0.1)

    names.update(
        RETRAIN=False,
        X_test=np.zeros((3, 28, 28, 1)),
        model=UnsureModel(),
        tf=SimpleNamespace(function=lambda **_: lambda f: f, TensorSpec=lambda _: None),
        hidden_error_stream=contextlib.nullcontext,
        lite_file=lambda in_8_bit: "Lite, 8 bits" if in_8_bit else "Lite, float32",
        lite_reader=lite_reader,
    )
    exec(cell_of(committed, "ways").source, names)
    reason = f"{failing} is left out: RuntimeError: this processor is not supported"
    assert reason in capsys.readouterr().out
    rows = {"model.predict", "compiled graph", "Lite, float32", "Lite, 8 bits"}
    assert names["ways"].keys() == rows - {failing}
    assert names["answers"].keys() == rows - {failing}


@pytest.mark.parametrize(
    "system, expected",
    [
        (SimpleNamespace(sched_getaffinity=lambda _: {5}, cpu_count=lambda: 64), 1),
        (SimpleNamespace(cpu_count=lambda: 64), 64),
    ],
    ids=["Linux, one of 64 allowed", "elsewhere"],
)
def test_processors_are_those_that_may_be_used(system, expected, committed):
    assert function_of(committed, "processors", os=system)() == expected


# as a script


def test_as_a_script(committed, scratch):
    """Sections 1 to 8 with the saved model, by Python without Jupyter."""
    nb = with_parameters(committed, RETRAIN=False, RUN_COMPARISON=False)
    nb.cells = nb.cells[: nb.cells.index(cell_of(nb, "needle-md"))]
    script, _ = PythonExporter().from_notebook_node(nb)
    (scratch / "script.py").write_text(script, encoding="utf-8")
    shutil.rmtree(scratch / "figures")
    ran = subprocess.run(
        [sys.executable, scratch / "script.py"],
        cwd=scratch / "notebooks",
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "test accuracy" in ran.stdout
    assert len(os.listdir(scratch / "figures")) == 6
