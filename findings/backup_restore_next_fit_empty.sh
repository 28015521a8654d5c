#!/usr/bin/env bash
# TensorFlow 2.21.0, Keras 3.15.1, Python 3.11. The BackupAndRestore callback lets
# fit() go on after an interruption. To do so it writes the epoch to resume from
# into the model, and nothing ever takes it out again, not even the end of training.
# Every later fit() of the same model object therefore starts at that epoch, although
# the callback is no longer passed. fit(epochs=3) of a model that was once resumed
# at epoch 3 trains nothing: no error, no warning, an empty history. Even an explicit
# initial_epoch=0 is overruled, because the stored number wins.
# This hits fine-tuning after a resumed run, where the weights just stay as they are.
# We would expect the number to hold for the resumed fit() alone.
# Output seen: resumed epochs [3, 4], next fit [], with initial_epoch=0 [] as well.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tensorflow==2.21.0 keras==3.15.1
export KERAS_HOME="$work/home" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" - "$work/backup" <<'PY'
import sys

import keras
import numpy as np

x, y = np.random.default_rng(0).normal(size=(2, 64, 1)).astype("float32")


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def first_fit(*extra):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    calls = [keras.callbacks.BackupAndRestore(sys.argv[1]), *extra]
    return model, model.fit(x, y, epochs=5, verbose=0, callbacks=calls).epoch


try:
    first_fit(Interrupt())
except KeyboardInterrupt:
    print("first run interrupted before its fourth epoch")
model, resumed = first_fit()
plain = model.fit(x, y, epochs=3, verbose=0).epoch
explicit = model.fit(x, y, epochs=3, initial_epoch=0, verbose=0).epoch
print(f"resumed run trained epochs {resumed}")
print(f"next fit(epochs=3) trained {plain}; with initial_epoch=0: {explicit}")
if resumed != [3, 4] or plain or explicit:
    sys.exit("CHANGED: a fit() after a resumed run trains its epochs again.")
print("As described: later calls of fit() do nothing and do not say so.")
PY
