#!/usr/bin/env bash
# TensorFlow 2.21.0, Keras 3.15.1, Python 3.11. keras.utils.get_file compares a
# cached file with file_hash. If they differ, it downloads again, and if that fails,
# it removes whatever lies at the target. But the download had not begun to write:
# what gets removed is the user's old file. One call without a network therefore
# destroys a data set that was usable, and no copy is left.
# This happens easily: the data set was packed again, or the right SHA-256 was typed
# in capital letters (as some systems print it), for the comparison is case-sensitive.
# We would expect a failed download to leave the cache as it was, and capital hex
# digits to equal small ones. Here "origin" is a closed port on this computer.
# Output seen: in both cases "URL fetch failure" and then "file left: False".
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tensorflow==2.21.0 keras==3.15.1
export KERAS_HOME="$work/home" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" - "$work" <<'PY'
import hashlib
import pathlib
import sys

import keras
import numpy as np

cache = pathlib.Path(sys.argv[1], "cache")
data = cache / "datasets" / "digits.npz"
data.parent.mkdir(parents=True)
for case in ("hash of another version", "right hash in capitals"):
    np.savez(data, x=np.arange(10))
    right = hashlib.sha256(data.read_bytes()).hexdigest()
    wanted = "0" * 64 if case.startswith("hash") else right.upper()
    try:
        keras.utils.get_file(
            origin="http://127.0.0.1:9/digits.npz", file_hash=wanted, cache_dir=cache
        )
    except Exception as error:
        print(f"{case}: {error}")
    print(f"{case}: file left: {data.exists()}")
    if data.exists():
        sys.exit(f"CHANGED: get_file kept the cached file ({case}).")
print("As described: the failed download removed the only copy.")
PY
