"""The submission as it is committed: what is there, what the notebook shows, and whether every stated number is true."""
import json
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from scipy.stats import binomtest

from conftest import FIGURES, MODEL, NOTEBOOK, REPO, accuracy_on_test, by_id, check_figure, code_cells, problems, rows, tagged, texts
from test_4_reader import drawn, read

README = (REPO / "README.md").read_text(encoding="utf-8")
TOP = {"notebooks", "models", "figures", "requirements.txt", "README.md", ".gitignore"}


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


def numbers(text):  # as they are written, without link targets; '3 × 3' counts as one
    text = re.sub(r"(?<=\d) × (?=\d)", "×", re.sub(r"\]\([^)]*\)", "]", text.replace("%", " %")))
    return set(re.findall(r"(?<![\w.])\d+(?:[,×]\d+)*(?:\.\d+)?(?!\w)", text))


def test_layout():
    if shutil.which("git") is None or not (REPO / ".git").exists():
        pytest.skip("no git clone here")
    git = lambda *words: subprocess.run(["git", "-C", REPO, *words], capture_output=True, text=True).stdout
    tracked = git("ls-files").splitlines()
    top = {path.split("/")[0] for path in tracked}
    assert TOP <= top and {name for name in top if not name.startswith(".")} <= TOP, f"the top level holds only {sorted(TOP)}"
    bad = [path for path in tracked if re.search(r"\.(npz|gz|idx\d?|csv|zip|h5|pyc)$|ubyte|checkpoint|__pycache__", path)]
    assert not bad, f"data and leftovers must not be committed, remove them with git rm --cached: {bad}"
    for path in ("models/checkpoints/best.weights.h5", "mnist.npz", ".venv/bin/python", "notebooks/.ipynb_checkpoints/a.ipynb"):
        assert git("check-ignore", path), f".gitignore does not cover {path}"
    for name in FIGURES:
        check_figure(REPO / "figures" / f"{name}.png")
    assert {path.split("/")[1] for path in tracked if path.startswith("figures/")} == {f"{name}.png" for name in FIGURES}


def test_notebook_is_the_full_run_clean_and_renders_on_github(committed):
    counts = [cell.execution_count for cell in code_cells(committed)]
    assert counts == list(range(1, len(counts) + 1)), f"run the README's first command; the counts are {counts}"
    exec(tagged(committed, "parameters"), values := {})
    assert values["RETRAIN"] is values["RUN_COMPARISON"] is True and 20 <= values["EPOCHS"] <= 30 and values["SEED"] == 42
    assert not problems(committed), problems(committed)
    found = re.search(r"(?<![\w.])/(home|root|work|tmp|Users|mnt|content|usr|var|opt)/|[A-Z]:\\\\", json.dumps(committed, ensure_ascii=False))
    assert not found, f"a path of one machine is in the notebook: {found}"
    assert (REPO / NOTEBOOK).stat().st_size < 1_000_000, "GitHub may not show so large a notebook: lower figure.dpi"
    assert "widgets" not in committed.metadata, "clear the widget state: GitHub does not render notebooks that have one"
    assert sum("image/png" in output.get("data", {}) for cell in code_cells(committed) for output in cell.outputs) >= len(FIGURES)


def test_model_and_notebook_agree(committed, mnist_arrays, model):
    """The saved model is plain Keras, the score is its own, and it is the best epoch's."""
    with zipfile.ZipFile(REPO / MODEL) as file:
        version, config = (json.loads(file.read(name)) for name in ("metadata.json", "config.json"))
    needs = "Keras " + re.match(r"3\.\d+", version["keras_version"])[0] + " or newer"
    assert needs in README and needs in (REPO / "requirements.txt").read_text(), f"README and requirements should say: {needs}"
    assert all(layer["module"].startswith("keras.") and layer["class_name"] != "Lambda" for layer in config["config"]["layers"])
    accuracy, shown = accuracy_on_test(model, mnist_arrays), texts(by_id(committed, "predict"))
    assert accuracy >= 0.99 and f"test accuracy: {accuracy:.2%}" in shown and f"errors: {round(10_000 * (1 - accuracy))} of 10,000" in shown
    assert f"{model.count_params():,} parameters" in texts(by_id(committed, "save")) and model.count_params() <= 500_000
    stated = re.search(r"best epoch: .* loss ([\d.]+), accuracy ([\d.]+)%", texts(by_id(committed, "train-result"))).groups()
    kept = next(row for row in rows(committed, "parts") if row[0] == "validation")
    assert abs(float(stated[0]) - float(kept[1])) <= 0.0005 and abs(float(stated[1]) - float(kept[2].rstrip("%"))) <= 0.02


def test_scanning_conditions_and_seeds(committed, mnist_arrays, model, prepare_digit):
    """The row of seed 42 is this run's; European 1s and 7s, and open 0s, are read anew."""
    table = {name: float(value) for name, value in re.findall(r"^(\w+(?: \w+)*) +([\d.]+)%$", texts(by_id(committed, "scan-scores")), re.M)}
    mean, accuracy = table.pop("mean"), 100 * accuracy_on_test(model, mnist_arrays)
    assert len(table) == 17 and min(table.values()) >= 90 and mean >= 98.5 and abs(np.mean(list(table.values())) - mean) < 0.01
    assert abs(100 * accuracy_on_test(model, mnist_arrays, lambda images: 0.3 + 0.7 * images) - table["grey paper"]) < 0.02
    others = float(re.search(r"handwriting: ([\d.]+)%", texts(by_id(committed, "others")))[1])
    zeros, ones, sevens = (np.mean([100 * (read(drawn(digit, np.random.default_rng([digit, i])), prepare_digit, model) == digit) for i in range(300)]) for digit in (0, 1, 7))
    seeds = {name: np.array(values.split(" | "), float) for name, values in re.findall(r"^\| (\w+) \| ([\d. |]+) \|$", by_id(committed, "seeds-md").source, re.M)}
    assert np.abs(seeds["42"] - [accuracy, mean, others, ones, sevens]).max() < 0.15, f"seed 42: {accuracy, mean, others, ones, sevens}"
    assert np.abs(np.mean([row for name, row in seeds.items() if name.isdigit()], axis=0) - seeds["mean"]).max() < 0.06, "the mean of the seeds"
    assert accuracy >= 99.6 and ones >= 95 and sevens >= 98 and zeros >= 98


def test_comparison(committed):
    parameters = {"R1 dense": "109,386", "R2 dense": "109,386", "R3 CNN": "121,994", "R4a dense": "101,770", "R4b CNN": "121,930"}
    table = rows(committed, "recipe-results")
    assert len(table) == 10 and sum(row[0].startswith("F ") for row in table) == 4 and any(row[0].startswith("R5 ") for row in table)
    assert {key: row[1] for row in table if (key := " ".join(row[0].split()[:2])) in parameters} == parameters
    for name, _, seconds, errors, interval, scanned, p in table:
        wilson = binomtest(10_000 - int(errors), 10_000).proportion_ci(method="wilson")
        assert interval == f"{wilson.low:.2%}–{wilson.high:.2%}" and int(seconds) > 0, f"{name}: {interval}, {seconds} s"
        assert int(errors) < (800 if "dense" in name else 400) and 30 < float(scanned.rstrip("%")) < 100 and 0 <= float(p) <= 1, name


def test_refusal_and_speed(committed, mnist_arrays, model):
    prob = model.predict(mnist_arrays["x_test"][..., np.newaxis].astype("float32") / 255, batch_size=500, verbose=0)
    sure, right = prob.max(axis=1), prob.argmax(axis=1) == mnist_arrays["y_test"]
    assert [row[0] for row in rows(committed, "refusal")] == ["none", "0.10%", "0.05%"]
    for _, threshold, refused, left, people, misrouted in rows(committed, "refusal"):
        errors, n = map(int, left.replace(",", "").split(" of "))
        kept = lambda confidence, shift: (confidence >= float(threshold) + shift).sum()  # the threshold shown is rounded to four places
        assert all(kept(of, 5e-5) <= count <= kept(of, -5e-5) for count, of in ((n, sure), (errors, sure[~right]))), (threshold, left)
        machine, rates = 5_000_000 * (n / 10_000) ** 5, (errors / n, *binomtest(errors, n).proportion_ci(method="exact"))
        astray = "{:,.0f} ({:,.0f} to {:,.0f})".format(*(round(machine * (1 - (1 - rate) ** 5), -3) for rate in rates))
        assert [refused, people, misrouted] == [f"{1 - n / 10_000:.2%}", f"{round(5_000_000 - machine, -3):,.0f}", astray]
    kb, one, batch, differ = zip(*([float(text.replace(",", "") or 0) for text in row[1:]] for row in rows(committed, "speed-table")))
    assert len(kb) == 4 and one[0] >= 20 * min(one) and min(batch) > 1000 and kb[3] <= 0.3 * kb[2] and max(differ) <= 10


def test_readme_numbers(committed, mnist_arrays, model):
    """The accuracy is the model's, and no number of the results is stated that the run does not show."""
    accuracy = f"{accuracy_on_test(model, mnist_arrays):.2%}".replace("%", " %")
    headline = re.sub(r"^\|.*", "", README.split("\n## ")[0], flags=re.M)
    assert accuracy in headline and f"| Test accuracy | **{accuracy}**" in section("Results")
    shown = "\n".join(texts(cell) for cell in code_cells(committed)) + by_id(committed, "seeds-md").source
    shown += " ".join(cell for name in ("parts", "recipe-results", "refusal", "speed-table", "goals") for row in rows(committed, name) for cell in row)
    mission = {"1", "5", "95", "99", "50,000", "28×28"}
    unexplained = numbers(headline + section("Results") + section("Visualizations")) - numbers(shown) - mission
    assert not unexplained, f"these numbers of README.md are nowhere in the run's output: {sorted(unexplained)}"


def test_readme_architecture(committed, model):
    text, code = section("Model Architecture"), "\n".join(cell.source for cell in code_cells(committed))
    ends = [i + 1 for i, layer in enumerate(model.layers) if type(layer).__name__ == "MaxPooling2D" or layer is model.layers[-1]]
    blocks = [("×".join(map(str, model.layers[end - 1].output.shape[1:])), f"{sum(layer.count_params() for layer in model.layers[start:end]):,}")
              for start, end in zip([0, *ends], ends)]
    assert re.findall(r"\| ([\d×]+) \| ([\d,]+) \|$", text, re.M) == blocks and f"{model.count_params():,} parameters" in text
    for name, pattern in {"learning rate": r"learning_rate=([\d.]+)", "batch size": r"flow\(X_world, Y_train, batch_size=(\d+)", "epochs": r"EPOCHS = (\d+)",
                          "plateau": r"ReduceLROnPlateau\([^)]*patience=(\d+)", "stopping": r"EarlyStopping\([^)]*patience=(\d+)",
                          "averaged weights": r"ema_momentum=([\d.]+)", "weight decay": r"weight_decay=([\d.]+)", "rotation": r"rotation_range=(\d+)", "shear": r"shear_range=(\d+)",
                          "shift": r"width_shift_range=([\d.]+)", "zoom": r"zoom_range=([\d.]+)"}.items():
        value, row = re.search(pattern, code)[1], re.search(rf"^\| {name}[^|]*\| ([^|]+) \|", text, re.M | re.I)
        assert row and value in numbers(row[1]), f"{name}: the notebook uses {value}, README.md says {row and row[1]!r}"


def test_readme_sections_and_commands():
    assert re.findall(r"^## (.+)$", README, re.M) == ["Dataset", "Model Architecture", "Results", "Visualizations", "How to Run"]
    assert re.findall(r"!\[[^\]]+\]\(([^)]+)\)", section("Visualizations")) == [f"figures/{name}.png" for name in FIGURES]
    for path in re.findall(r"\]\(([^)\s#]+)\)", README):
        assert path.startswith("https://") or (REPO / path).exists(), f"README.md links to {path}, which is not there"
    execute, test = (block.strip() for block in re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)[:2])
    script = [line for line in (REPO / ".ci" / "run").read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert "nbconvert" in execute and "--execute" in execute and script == [test], ".ci/run calls the README's test command, nothing else"
    assert "bash .ci/run" in (REPO / ".github" / "workflows" / "notebook.yml").read_text(), "the workflow must run .ci/run"
