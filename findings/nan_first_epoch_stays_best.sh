#!/usr/bin/env bash
# TensorFlow 2.21.0, Keras 3.15.1, Python 3.11. EarlyStopping and ModelCheckpoint in
# Keras 3 take the first monitored value as the best one without looking at it. If it
# is NaN, no later value compares as better, so NaN stays "best" for good: training
# stops although it improves, restore_best_weights brings back the first epoch, and
# save_best_only never writes the better models. There is no warning.
# A NaN in the first epoch is quite ordinary for a ratio. The precision below is 0/0
# until the model gives its first positive answer; from then on it is a perfect 1.
# We would expect a warning, or NaN to lose to any number, as it did when the
# comparison began at infinity.
# Output seen: precision [nan, 1.0, 1.0], restored epoch 1, saved only epoch 1.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tensorflow==2.21.0 keras==3.15.1
export KERAS_HOME="$work/home" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" - "$work" <<'PY'
import pathlib
import sys

import keras
import numpy as np
from keras import callbacks, ops

x = np.array([[-1.0], [1.0]] * 8, "float32")
y = (x > 0).astype("float32")


def precision(truth, answer):
    positive = ops.cast(answer > 0.5, "float32")
    return ops.sum(positive * truth) / ops.sum(positive)


model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
model.set_weights([np.zeros((1, 1)), np.full(1, -3.0)])
model.compile(keras.optimizers.SGD(2.0), "binary_crossentropy", metrics=[precision])
watch = {"monitor": "val_precision", "mode": "max"}
stop = callbacks.EarlyStopping(**watch, patience=2, restore_best_weights=True)
path = pathlib.Path(sys.argv[1], "epoch_{epoch}.keras")
save = callbacks.ModelCheckpoint(path, **watch, save_best_only=True)
options = {"verbose": 0, "validation_data": (x, y), "callbacks": [stop, save]}
values = model.fit(x, y, epochs=9, **options).history["val_precision"]
saved = sorted(file.name for file in path.parent.glob("*.keras"))
print("precision after each epoch:", values)
print("restored: epoch", stop.best_epoch + 1, "- saved:", saved)
if not np.isnan(values[0]) or values[1] != 1.0:
    sys.exit("CHANGED: precision no longer goes from NaN to 1; this shows nothing.")
if stop.best_epoch != 0 or saved != ["epoch_1.keras"]:
    sys.exit("CHANGED: NaN in the first epoch is no longer kept as the best value.")
print("As described: the useless first epoch was kept, and the perfect ones lost.")
PY
