#!/usr/bin/env bash
# TensorFlow 2.21.0, Keras 3.15.1, SciPy 1.17.1, Python 3.11. In ImageDataGenerator
# height_shift_range moves pictures sideways, and width_shift_range moves them up and
# down. The random shift for the height is drawn as "tx", in units of the height; the
# step that applies it takes tx as the horizontal direction. (Reported long ago, as
# keras #17398 and tensorflow #82838, and still not fixed.)
# With square pictures and equal ranges nobody can tell. With tall or wide pictures
# the units are wrong as well: a fifth of the height may be most of the width, so
# that the object leaves the picture. We would expect what the names say: vertical
# moves by a fraction of the height, and horizontal ones by a fraction of the width.
# Output seen on a 40 x 10 picture for height_shift_range: rows move by 0.0 pixels,
# columns by up to 5, and the dot vanished from 20 of 60 pictures.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tensorflow==2.21.0 keras==3.15.1 scipy==1.17.1
export KERAS_HOME="$work/home" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import tensorflow as tf

picture = np.zeros((1, 40, 10, 1), "float32")
picture[0, 20, 5, 0] = 1.0


def moves(name):
    options = {name: 0.2, "fill_mode": "constant"}
    generator = tf.keras.preprocessing.image.ImageDataGenerator(**options)
    batches = generator.flow(picture, batch_size=1, seed=3)
    rows, columns = [], []
    for _ in range(60):
        image = next(batches)[0, :, :, 0]
        if image.sum() > 0.001:
            row, column = np.argwhere(image > 0).mean(axis=0)
            rows.append(abs(row - 20))
            columns.append(abs(column - 5))
    print(f"{name}=0.2: rows move up to {max(rows):.1f} pixels, columns up to", end=" ")
    print(f"{max(columns):.1f}; the dot vanished from {60 - len(rows)} of 60 pictures")
    return max(rows), max(columns)


row_h, column_h = moves("height_shift_range")
row_w, column_w = moves("width_shift_range")
if row_h > 0.1 or column_h < 1 or column_w > 0.1 or row_w < 1:
    sys.exit("CHANGED: the shift ranges move pictures along the named axis now.")
print("As described: each range moves the picture along the other axis.")
PY
