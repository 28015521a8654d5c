#!/usr/bin/env bash
# TensorFlow 2.21.0, Keras 3.15.1, Python 3.11. keras.utils.get_file(cache_dir=...)
# tests whether the folder can be written to. A folder that is not there yet fails
# this test too, so Keras drops it without a word and uses the shared /tmp/.keras.
# The documentation describes cache_dir as the location of the cached files.
# Worse, two projects, each with a new cache_dir and an origin of its own, then share
# that folder. The second finds a file of the same name there, downloads nothing, and
# gets the first project's data. We would expect the folder to be made, or an error.
# The demonstration reads local files, and deletes its own file at the end.
# Output seen: "project b was given: data of project a", and no cache folder made.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tensorflow==2.21.0 keras==3.15.1
export KERAS_HOME="$work/home" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" - "$work" <<'PY'
import pathlib
import sys
import uuid

import keras

work = pathlib.Path(sys.argv[1])
name = f"labels_{uuid.uuid4().hex}.txt"
found = {}
for project in ("a", "b"):
    source = work / project / name
    source.parent.mkdir()
    source.write_text(f"data of project {project}")
    cache = work / f"cache_{project}"
    got = pathlib.Path(keras.utils.get_file(origin=source.as_uri(), cache_dir=cache))
    found[project] = got.read_text()
    print(f"project {project} was given: {found[project]}")
    print(f"  cache_dir was made: {cache.exists()}; used: {got.parent.parent.name}")
shared = not got.is_relative_to(work)
if shared:
    got.unlink()
if not shared or found["b"] != found["a"]:
    sys.exit("CHANGED: get_file no longer swaps a new cache_dir for a shared folder.")
print("As described: project b silently works with the data of project a.")
PY
