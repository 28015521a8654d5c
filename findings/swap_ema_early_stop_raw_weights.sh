#!/usr/bin/env bash
# TensorFlow 2.21.0, Keras 3.15.1, Python 3.11. An optimizer with use_ema=True keeps
# moving averages of the weights, and fit() leaves these averages in the model. With
# SwapEMAWeights(swap_on_epoch=True) the model already holds them after each epoch.
# The callback prepares for the end of fit() only in the epoch numbered epochs - 1.
# If EarlyStopping (or anything else) ends the training sooner, this step is left
# out: the averages and the last weights are still swapped when fit() copies "the
# averages" into the model, and what it copies are the raw weights of the last step.
# So the same two epochs give different models, depending on the value of epochs.
# We would expect averaged weights from both.
# Output seen: planned end: 0.0000 away from the averages; early stop: 0.44 away.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tensorflow==2.21.0 keras==3.15.1
export KERAS_HOME="$work/home" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" - <<'PY'
import sys

import keras
import numpy as np

x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = x.sum(axis=1)
after_epoch = {}


class Keep(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        after_epoch[epoch] = self.model.get_weights()[0].copy()


def distance(epochs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    stop = keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=1)
    calls = [swap, Keep(), stop]
    run = model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=calls)
    averages = after_epoch[run.epoch[-1]]
    return len(run.epoch), float(np.abs(model.get_weights()[0] - averages).max())


planned, early = distance(2), distance(20)
print("planned end of 2: %d epochs, %.4f away from the averages" % planned)
print("stopped early of 20: %d epochs, %.4f away from the averages" % early)
if planned[0] != early[0] or planned[1] > 1e-5 or early[1] < 0.01:
    sys.exit("CHANGED: an early stop leaves the averaged weights in the model.")
print("As described: after an early stop the model has lost its averages.")
PY
