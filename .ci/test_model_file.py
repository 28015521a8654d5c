"""models/: plain Keras that any Keras 3 opens, and that can be trained on."""

import json
import os
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from submission import MODEL, REPO, accuracy, cell_of, shown


@pytest.fixture(scope="module")
def config():
    with zipfile.ZipFile(REPO / MODEL) as file:
        return json.loads(file.read("config.json"))


def test_layers_are_keras_own(config):
    for layer in config["config"]["layers"]:
        assert layer["module"].startswith("keras."), layer["class_name"]
        assert layer["class_name"] != "Lambda", "a Lambda layer runs foreign code"


def test_parameters_are_as_shown(committed, model):
    assert model.count_params() <= 500_000
    assert f"{model.count_params():,} parameters" in shown(cell_of(committed, "reload"))


READ_IN_OLD_KERAS = """
import sys
import numpy as np
import keras
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[2], model.predict(np.load(sys.argv[3]), verbose=0))
print(keras.__version__)
"""


@pytest.mark.parametrize("version", ["3.1.1", "3.8.0", "3.14.0"])
def test_older_keras_opens_it_and_reads_the_same(version, model, x_test, tmp_path):
    packages, images, answers = (
        tmp_path / "packages",
        tmp_path / "x.npy",
        tmp_path / "y.npy",
    )
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*install, packages, f"keras=={version}"], check=True)
    np.save(images, x_test[:200])
    script = [sys.executable, "-c", READ_IN_OLD_KERAS, REPO / MODEL, answers, images]
    environment = {"PYTHONPATH": str(packages), "KERAS_BACKEND": "tensorflow"}
    ran = subprocess.run(
        script, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[-1] == version
    expected = model.predict(x_test[:200], verbose=0)
    np.testing.assert_allclose(np.load(answers), expected, atol=1e-5)


@pytest.fixture
def train_on(mnist_arrays):
    """A function that trains the saved model for some steps and returns it."""
    from tensorflow import keras

    def train(rate, steps):
        keras.utils.set_random_seed(0)
        model = keras.models.load_model(REPO / MODEL)
        model.optimizer.learning_rate = rate
        images = mnist_arrays["x_train"][: 128 * steps, ..., np.newaxis] / 255
        labels = keras.utils.to_categorical(mnist_arrays["y_train"][: 128 * steps], 10)
        model.fit(images.astype("float32"), labels, batch_size=128, verbose=0)
        return model

    return train


def test_training_on_at_rate_0_changes_no_weight(train_on, model):
    trained = train_on(rate=0, steps=1)
    for before, after in zip(model.trainable_variables, trained.trainable_variables):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_training_on_at_rate_0_changes_hardly_an_answer(
    train_on, model, x_test, y_test
):
    before = accuracy(model, x_test, y_test)
    after = accuracy(train_on(rate=0, steps=1), x_test, y_test)
    errors = round(10_000 * abs(after - before))
    assert errors <= 3, "normalisation's averages move a little, no more"


def test_training_on_for_ten_steps_costs_at_most_a_few(train_on, model, x_test, y_test):
    before = accuracy(model, x_test, y_test)
    after = accuracy(train_on(rate=1e-5, steps=10), x_test, y_test)
    assert round(10_000 * (before - after)) <= 8, "more digits are misread"


def test_the_phone_file_reads_the_same(model, x_test, y_test):
    import tensorflow as tf

    if not hasattr(tf, "lite"):
        pytest.skip("this TensorFlow has no TensorFlow Lite")
    path = str(REPO / "models/mnist_cnn.tflite")
    with warnings.catch_warnings(action="ignore"):  # of its move to another package
        read = tf.lite.Interpreter(model_path=path).get_signature_runner()
    (source,) = read.get_input_details()
    (result,) = read.get_output_details()
    digits = read(**{source: x_test[:1000]})[result].argmax(axis=1)
    expected = model.predict(x_test[:1000], verbose=0).argmax(axis=1)
    assert (digits != expected).sum() <= 2
