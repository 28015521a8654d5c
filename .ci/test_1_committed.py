"""The submission as it is committed: what is there, what the notebook shows, and whether every stated number is true."""
import json
import re
import shutil
import subprocess
import statistics
import zipfile

import numpy as np
import pytest
from packaging.requirements import Requirement
from scipy import ndimage
from scipy.stats import binomtest

from conftest import (FIGURES, MODEL, NOTEBOOK, PARTS_LEFT_OUT, REPO, SCANS, accuracy_on_test, all_text, check_comparison, check_figure, check_speed,
                      code_cells, problems, read_notebook, scanning_table, table, tagged, texts)

README = REPO / "README.md"
TOP = {"notebooks", "models", "figures", "requirements.txt", "README.md", ".gitignore"}
SECTIONS = ["Dataset", "Model Architecture", "Results", "Visualizations", "How to Run"]
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|work|tmp|Users|mnt|content|usr|var|opt)/|[A-Z]:\\\\")
# Numbers of the README that belong to the mission, the dataset or the wording, not to a run.
MISSION = {"99", "1", "5", "50,000", "10,000", "95", "8×8", "28×28", "0.1", "0.05", "0.03"}


def git(*words, text=True):
    """What git prints, or None where this is no clone (a downloaded ZIP) or there is no git."""
    if shutil.which("git") is None or not (REPO / ".git").exists():
        return None
    ran = subprocess.run(["git", "-C", REPO, *words], capture_output=True, text=text)
    return ran.stdout if ran.returncode == 0 else None


def tracked():
    listed = git("ls-files")
    if listed is None:
        return [path.relative_to(REPO).as_posix() for path in REPO.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return listed.splitlines()


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The run in the working tree and, where it has been executed anew, the committed one: [(notebook, model path), ...].

    README.md describes the committed run, and who executes the notebook has another one in the
    working tree; it is the committed README that must be true, of the run that was committed with it.
    """
    found = [(read_notebook(REPO / NOTEBOOK), REPO / MODEL)]
    notebook, model = (git("show", f"HEAD:{path.as_posix()}", text=False) for path in (NOTEBOOK, MODEL))
    if notebook and model and notebook != (REPO / NOTEBOOK).read_bytes():
        folder = tmp_path_factory.mktemp("committed")
        for path, content in ((NOTEBOOK, notebook), (MODEL, model)):
            (folder / path.name).write_bytes(content)
        found.append((read_notebook(folder / NOTEBOOK.name), folder / MODEL.name))
    return found


def section(title):
    """The README's text under this heading, without the code blocks."""
    text = README.read_text(encoding="utf-8")
    body = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert body, f"README.md has no section '## {title}'"
    return re.sub(r"^```.*?^```", "", body[1], flags=re.M | re.S)


def numbers(text):
    """All numbers in a text, as they are written; '3 × 3' counts as one."""
    text = re.sub(r"\]\([^)]*\)", "]", text)  # link targets
    text = re.sub(r"(?<=\d) × (?=\d)", "×", text)
    return set(re.findall(r"(?<![\w.])\d+(?:[,×]\d+)*(?:\.\d+)?(?!\w)", text))


# layout

def test_top_level():
    top = {path.split("/")[0] for path in tracked()}
    visible = {name for name in top if not name.startswith(".")}
    assert TOP <= top, f"missing at the top level: {sorted(TOP - top)}"
    assert visible <= TOP, f"take these away or move them, the top level holds only {sorted(TOP)}: {sorted(visible - TOP)}"


def test_no_data_and_no_leftovers():
    bad = [path for path in tracked() if re.search(r"\.(npz|gz|idx\d?|csv|zip|h5|pyc)$|ubyte|checkpoint|__pycache__", path)]
    assert not bad, f"data and leftovers must not be committed, remove them with git rm --cached: {bad}"


def test_gitignore_keeps_them_out():
    for path in ("models/checkpoints/best.weights.h5", "mnist.npz", "shared/mnist.npz", ".venv/bin/python", "notebooks/.ipynb_checkpoints/a.ipynb",
                 ".ci/__pycache__/a.pyc", ".vscode/settings.json"):
        if git("rev-parse") is None:
            pytest.skip("no git clone here")
        assert git("check-ignore", path), f".gitignore does not cover {path}"
    assert not git("check-ignore", str(MODEL)), f".gitignore hides {MODEL}"


# the notebook

def test_notebook_is_executed_once_from_top_to_bottom(committed):
    counts = [cell.execution_count for cell in code_cells(committed)]
    assert counts == list(range(1, len(counts) + 1)), f"run all cells in a fresh kernel (the README's first command) and save: counts are {counts}"


def test_notebook_output_is_clean(committed):
    assert not problems(committed), "\n".join(problems(committed))


def test_notebook_has_no_machine_paths(committed):
    text = json.dumps(committed, ensure_ascii=False)
    found = [text[max(0, m.start() - 40):m.end() + 40] for m in MACHINE_PATH.finditer(text)]
    assert not found, f"paths of one machine are in the notebook: {found}"


def test_notebook_renders_on_github(committed):
    size = (REPO / NOTEBOOK).stat().st_size
    assert size < 1_000_000, f"the notebook has {size:,} bytes, GitHub may not show it: lower figure.dpi"
    assert "widgets" not in committed.metadata, "clear the widget state (metadata.widgets): GitHub does not render notebooks that have one"
    inline = sum("image/png" in output.get("data", {}) for cell in code_cells(committed) for output in cell.outputs)
    assert inline >= len(FIGURES), f"only {inline} figures are shown in the notebook"


def test_parameters_are_the_full_run(committed):
    values = {}
    exec(tagged(committed, "parameters"), values)
    assert values["RETRAIN"] is True and 20 <= values["EPOCHS"] <= 30 and values["SEED"] == 42, "commit the notebook with its own parameters"
    assert values["RUN_COMPARISON"] is True and values["COMPARISON_EPOCHS"] >= 10 and values["PHOTOS"] == 1000, "commit the notebook with its own parameters"


# figures

@pytest.mark.parametrize("name", FIGURES)
def test_figure(name):
    check_figure(REPO / "figures" / f"{name}.png")


def test_figures_holds_nothing_else():
    here = sorted(path.name for path in (REPO / "figures").iterdir())
    assert here == sorted(f"{name}.png" for name in FIGURES), f"figures/ holds {here}"


# the model

def test_model_is_plain_keras():
    with zipfile.ZipFile(REPO / MODEL) as file:
        version = json.loads(file.read("metadata.json"))["keras_version"]
        config = json.loads(file.read("config.json"))
    needs = re.match(r"3\.\d+", version)
    assert needs, f"the model was saved by Keras {version}: save it with Keras 3"
    for path in ("requirements.txt", "README.md"):
        assert f"Keras {needs[0]} or newer" in (REPO / path).read_text(encoding="utf-8"), \
            f"{path} should say that the model, saved by Keras {version}, needs Keras {needs[0]} or newer"
    for layer in config["config"]["layers"]:
        assert layer["module"].startswith("keras.") and layer["registered_name"] is None and layer["class_name"] != "Lambda", \
            f"the model holds a custom or Lambda layer, {layer['class_name']}: others could not load it"


def test_model_and_notebook_agree(committed, mnist_npz):
    from tensorflow import keras

    accuracy, text = accuracy_on_test(REPO / MODEL, mnist_npz), all_text(committed)
    assert accuracy >= 0.99, f"the committed model reads only {accuracy:.2%} of the test set"
    for stated in (f"test accuracy: {accuracy:.2%}", f"errors:        {round(10_000 * (1 - accuracy))} of 10,000",
                   f"{keras.models.load_model(REPO / MODEL).count_params():,} parameters"):
        assert stated in text, f"the model gives '{stated}', the notebook says otherwise: commit model and notebook from one run"


def shown_by(nb, cell_id):
    """What the cell with this id shows, or for text cells says."""
    cell = next((cell for cell in nb.cells if cell.id == cell_id), None)
    assert cell, f"the notebook has no cell with the id {cell_id!r}: put the id back"
    return texts(cell) if cell.cell_type == "code" else cell.source


def test_the_validated_weights_are_the_ones_kept(committed):
    """The averaged weights of the best epoch, and no others, are restored, saved and scored."""
    stated = re.search(r"best epoch: \d+, .* validation loss ([\d.]+), validation accuracy ([\d.]+)%", shown_by(committed, "train-result"))
    kept = re.search(r"^validation +[\d,]+ +([\d.]+) +([\d.]+)%", shown_by(committed, "overfit"), re.M)
    loss, accuracy = (abs(float(a) - float(b)) for a, b in zip(stated.groups(), kept.groups()))
    assert loss <= 0.001 and accuracy <= 0.05, \
        f"validation in training gave {stated.groups()}, the finished network gives {kept.groups()}: other weights were restored"


def test_scanning_conditions(committed, mnist_npz):
    """The table of section 7.7 holds every condition, and what it says of those that are one line of arithmetic is so."""
    from tensorflow import keras

    table = scanning_table(committed)
    assert set(SCANS) <= set(table), f"missing in the table of scanning conditions: {sorted(set(SCANS) - set(table))}"
    with np.load(mnist_npz) as arrays:
        images, labels = arrays["x_test"].astype("float32")[..., np.newaxis] / 255, arrays["y_test"]
    model = keras.models.load_model(REPO / MODEL)
    for name, scanned in {"grey paper": 0.3 + 0.7 * images, "faded ink": 0.4 * images, "brighter exposure": np.clip(images + 0.4, 0, 1),
                          "thicker strokes": ndimage.grey_dilation(images, (1, 3, 3, 1))}.items():
        accuracy = 100 * (model.predict(scanned, batch_size=500, verbose=0).argmax(axis=1) == labels).mean()
        assert abs(accuracy - table[name]) < 0.015, f"{name}: the committed model reads {accuracy:.2f} %, the table says {table[name]} %"
    mean = statistics.mean(table[name] for name in SCANS)
    assert f"{mean:.2f}%" in shown_by(committed, "scan-summary") and mean >= 97 and min(table[name] for name in SCANS) >= 90


def seed_rows(nb):
    """The table of the five seeds: [(seed, validation %, test %, errors, other handwriting %, epochs, minutes), ...]."""
    rows = re.findall(r"^\| (\d+) \|" + r" ([\d.]+)(?: %)? \|" * 6, shown_by(nb, "five-seeds"), re.M)
    return [tuple(map(float, row)) for row in rows]


def test_five_seeds(runs):
    """Mean and spread follow from the table, the README repeats them, and seed 42's row is the notebook's own run."""
    complaints = []
    for notebook, _ in runs:
        text, rows = shown_by(notebook, "five-seeds"), seed_rows(notebook)
        assert [row[0] for row in rows] == [42, 43, 44, 45, 46], "the table has one row for each of the seeds 42 to 46"
        tests = [row[2] for row in rows]
        assert all(abs(100 - row[3] / 100 - row[2]) < 1e-6 for row in rows), "errors and test accuracy contradict each other"
        for stated in (f"{statistics.mean(tests):.3f} %", f"standard deviation {statistics.stdev(tests):.3f}"):
            assert stated in text and stated in section("Results"), f"'{stated}' should stand below the table and in the README's Results"
        own = all_text(notebook)
        epochs, minutes = re.search(r"training time: ([\d.]+) min for (\d+) epochs", own).group(2, 1)
        other = float(re.search(r"other handwriting: ([\d.]+)%", shown_by(notebook, "others-score"))[1])
        wanted = (f"test accuracy: {tests[0]:.2f}%", f"errors:        {rows[0][3]:.0f} of", f"validation accuracy {rows[0][1]:.2f}%")
        missing = [w for w in wanted if w not in own] + [f"{e} {a} / {b}" for e, a, b in (
            ("epochs", float(epochs), rows[0][5]), ("minutes", float(minutes), rows[0][6]), ("other handwriting", other, rows[0][4])) if a != b]
        if not missing:
            return
        complaints.append(f"seed 42's row is not this notebook's run: {missing}")
    pytest.fail("\n".join(complaints))


def test_whole_recipes(committed, mnist_npz):
    """Section 9.1: every recipe is there and learned, the row F is the committed model's, and the arithmetic is right."""
    from tensorflow import keras

    check_comparison(committed)
    rows = table(committed, "whole-table")
    errors = [int(row["errors"]) for row in rows.values()]
    assert errors == sorted(errors), "the table should be sorted by errors"
    for key, row in rows.items():
        interval = binomtest(10_000 - int(row["errors"]), 10_000).proportion_ci(method="wilson")
        assert row["95 % interval"] == f"{100 * interval.low:.2f}–{100 * interval.high:.2f}", f"{key}: the interval is not Wilson's"
        assert key == "F" or re.fullmatch(r"< 0.001|[01]\.\d{4}", row["p against F"]), f"{key}: {row['p against F']!r} is no p"
    most = {"R1": 10, "R2": 10, "R3": 10, "R4a": 10, "R4b": 6, "R5": 5}
    assert all(1 <= int(rows[key]["epochs"]) <= limit for key, limit in most.items()), f"at most {most} epochs were asked for"
    count = {key: int(row["parameters"].replace(",", "")) for key, row in rows.items()}
    assert count["R5"] <= count["F"], "the residual network should have no more parameters than the final one"
    for key, author in table(committed, "whole-authors").items():
        assert author["test accuracy here"] == rows[key]["test acc."], f"{key}: the two tables give different accuracies"

    model, text = keras.models.load_model(REPO / MODEL), all_text(committed)
    final, minutes = rows["F"], re.search(r"training time: ([\d.]+) min for (\d+) epochs", text)
    assert f"errors:        {final['errors']} of" in text and final["parameters"] == f"{model.count_params():,}"
    assert abs(int(final["training"].split()[0]) / 60 - float(minutes[1])) < 0.06 and final["epochs"] == minutes[2]
    with np.load(mnist_npz) as arrays:
        images, labels = arrays["x_test"][:2000].astype("float32")[..., np.newaxis] / 255, arrays["y_test"][:2000]
    names = {"np": np, "ndimage": ndimage, "ImageDataGenerator": keras.preprocessing.image.ImageDataGenerator}
    exec("\n".join(cell.source for cell in code_cells(committed) if cell.id in ("scan-moves", "scan-dirt", "scan-conditions")), names)
    scanned = [100 * (model.predict(names["scan"](images, name), batch_size=500, verbose=0).argmax(axis=1) == labels).mean() for name in SCANS]
    assert abs(statistics.mean(scanned) - float(final["scanning acc."].rstrip("%"))) < 0.015, "F's mean under scanning conditions is another"


def test_parts(committed):
    """Section 9.2: the differences are those of the rows, and what is called noise has a p that says so."""
    rows = table(committed, "parts-table")
    epochs = dict(re.findall(r"^(F′|A\d) +(\d+) ", shown_by(committed, "run-parts"), re.M))
    assert set(epochs) == set(rows) and len(set(epochs.values())) == 1, f"every row should be trained for the same epochs, they are {epochs}"
    code = "\n".join(cell.source for cell in code_cells(committed))
    assert len(set(re.findall(r"ReduceLROnPlateau\(([^)]*)\)", code))) == 1, "F′ should lower its learning rate by the final recipe's rule"
    whole = rows["F′"]
    for key in list(PARTS_LEFT_OUT)[1:]:
        verdicts, row = [], {column: text.replace(",", "") for column, text in rows[key].items() if column != "beyond chance"}
        for name, errors, change, p in (("test", "errors", "change", "p"), ("scanning", "scanning errors", "scanning change", "scanning p")):
            assert int(row[change]) == int(row[errors]) - int(whole[errors].replace(",", "")), f"{key}: {row}"
            assert re.fullmatch(r"< 0\.001|[01]\.\d{4}", row[p]), f"{key}: {row[p]!r} is no p"
            if float(row[p].strip("< ")) < 0.05:
                verdicts.append(name if float(row[p].strip("< ")) < 0.05 / 8 else f"{name} (perhaps)")
        assert rows[key]["beyond chance"] == (", ".join(verdicts) or "noise"), f"{key}: {rows[key]}"
        assert abs(100 - int(row["scanning errors"]) / 340 - float(row["scanning acc."].rstrip("%"))) < 0.006, f"{key}: {row}"


# README.md

def test_readme_sections_and_order():
    headings = re.findall(r"^## (.+)$", README.read_text(encoding="utf-8"), re.M)
    assert headings == SECTIONS, f"the sections should be {SECTIONS}, in this order"


def test_readme_links():
    text = README.read_text(encoding="utf-8")
    images = re.findall(r"!\[([^\]]+)\]\(([^)\s]+)\)", section("Visualizations"))
    assert [path for _, path in images] == [f"figures/{name}.png" for name in FIGURES], "Visualizations shows the six figures, in this order"
    for path in re.findall(r"\]\(([^)\s#]+)\)", text):
        assert path.startswith("https://") or (REPO / path).exists(), f"README.md links to {path}, which is not there"


def test_readme_results(runs, mnist_npz):
    """The rows of the result table say what the model does, recomputed; no other number is stated that the run does not show."""
    headline = re.sub(r"^\|.*", "", README.read_text(encoding="utf-8").split("\n## ")[0], flags=re.M)  # less the submitter's table
    complaints = []
    for notebook, model in runs:
        text, accuracy = all_text(notebook), accuracy_on_test(model, mnist_npz)
        epochs, best = re.search(r"min for (\d+) epochs", text)[1], re.search(r"best epoch: (\d+)", text)[1]
        minutes = re.search(r"training time: ([\d.]+) min", text)[1]
        rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", section("Results").replace("**", ""), re.M))
        wanted = {"Test accuracy": f"{accuracy:.2%}", "Test errors": f"{round(10_000 * (1 - accuracy))} of 10,000",
                  "Training time": f"{minutes} min", "Epochs": f"{epochs}, best epoch {best}",
                  "Parameters": re.search(r"([\d,]+) parameters", text)[1]}
        wrong = [f"{row}: README.md says {rows.get(row)!r}, the run {value!r}" for row, value in wanted.items()
                 if not rows.get(row, "").replace(" %", "%").startswith(value)]
        if f"{accuracy:.2%}" not in headline.replace(" %", "%"):
            wrong.append(f"the first lines do not state the test accuracy {accuracy:.2%}")
        explained = numbers(text.replace("%", " %")) | numbers(shown_by(notebook, "five-seeds")) | MISSION
        unexplained = numbers(headline + section("Results") + section("Visualizations")) - explained
        if unexplained:
            wrong.append(f"these numbers of README.md are nowhere in the run's output: {sorted(unexplained)}")
        if not wrong:
            return
        complaints.append("\n".join(wrong))
    pytest.fail("README.md does not describe the run: correct it, and commit it with the notebook and the model.\n" + "\n\n".join(complaints))


def test_readme_comparison(runs):
    """The README's rows of section 9.1 are the notebook's, and augmentation's impact is stated as section 9.2 measured it."""
    stated = {key: values for key, *values in re.findall(
        r"^\| \**(\w+): [^|]+\| ([\d,]+) \| ([\d,]+) KB \| (\d+ s) \| (\d+) \| ([\d.]+ %) \|$", section("Results").replace("**", ""), re.M)}
    impact = re.search(r"^\*\*Augmentation's impact.*", section("Results"), re.M)
    assert impact, "the README's Results have no paragraph that starts with '**Augmentation's impact'"
    complaints = []
    for notebook, _ in runs:
        rows, parts = table(notebook, "whole-table"), table(notebook, "parts-table")
        wanted = {key: [row["parameters"], row["KB"], row["training"], row["errors"], row["scanning acc."].replace("%", " %")]
                  for key, row in rows.items()}
        impacts = {parts[key][column].rstrip("%") for key in ("F′", "A1") for column in ("errors", "test acc.", "scanning acc.")}
        missing = (impacts | {parts["A1"]["p"].strip("< "), parts["A6"]["scanning acc."].rstrip("%")}) - numbers(impact[0])
        if stated == wanted and list(stated) == list(wanted) and not missing:
            return
        complaints.append(f"README.md's rows are {stated}, the notebook's {wanted}; augmentation's impact lacks {sorted(missing)}")
    pytest.fail("\n".join(complaints))


def test_readme_refusal(runs):
    """The README's table of refusals is the notebook's."""
    stated = re.findall(r"^\| (none|0\.1 %|0\.05 %) \| (.+) \|$", section("Results"), re.M)
    complaints = []
    for notebook, _ in runs:
        wanted = [" | ".join(list(row.values())[1:]) for row in table(notebook, "refusal").values()]
        if [cells.replace(" %", "%") for _, cells in stated] == wanted:
            return
        complaints.append(f"README.md's rows are {stated}, the notebook's {wanted}")
    pytest.fail("\n".join(complaints))


def test_readme_speed(runs):
    """The README's table of section 10.4 holds the notebook's medians."""
    stated = re.findall(r"^\| \**(model\.predict|the model called|tf\.function|Lite, float32|Lite, int8)\** \| (.+) \|$", section("Results"), re.M)
    complaints = []
    for notebook, _ in runs:
        check_speed(notebook)
        rows = table(notebook, "fast-table")
        wanted = [(way, " | ".join(text.split(" (")[0] for text in list(row.values())[1:])) for way, row in rows.items()]
        if [(way, cells.replace(" %", "%")) for way, cells in stated] == wanted:
            return
        complaints.append(f"README.md's rows are {stated}, the notebook's {wanted}")
    pytest.fail("\n".join(complaints))


def test_readme_architecture():
    from tensorflow import keras

    model = keras.models.load_model(REPO / MODEL)
    rows = re.findall(r"^\| `(\w+)` \| (\w+)[^|]*\| ([^|]+?) \| ([\d,]+) \|$", section("Model Architecture"), re.M)
    layers = [(layer.name, type(layer).__name__, " × ".join(map(str, layer.output.shape[1:])), f"{layer.count_params():,}") for layer in model.layers]
    assert rows == layers, "the README's table of layers is not the model's"
    assert f"{model.count_params():,}" in section("Model Architecture"), "the total of parameters is missing or wrong"


def test_readme_settings(committed):
    """Hyperparameters and augmentation stand in the README as they stand in the notebook's code."""
    code = "\n".join(cell.source for cell in code_cells(committed))
    text = section("Model Architecture")
    for name, pattern in {"learning rate": r"Adam\(learning_rate=([\d.]+)", "batch size": r"BATCH_SIZE = (\d+)", "epochs": r"EPOCHS = (\d+)",
                          "plateau patience": r"ReduceLROnPlateau\([^)]*patience=(\d+)", "stopping patience": r"EarlyStopping\([^)]*patience=(\d+)",
                          "averaged weights": r"ema_momentum=([\d.]+)",
                          "rotation": r"rotation_range=(\d+)", "shear": r"shear_range=(\d+)", "shift": r"width_shift_range=([\d.]+)", "zoom": r"zoom_range=([\d.]+)"}.items():
        row = re.search(rf"^\| {name}[^|]*\| ([^|]+) \|", text, re.M | re.I)
        assert row, f"Model Architecture has no table row '{name}'"
        value = re.search(pattern, code)[1]
        assert value in numbers(row[1]), f"{name}: the notebook uses {value}, README.md says {row[1]!r}"


def test_readme_commands():
    """How to Run starts with two one-line commands, and CI runs the second to the letter."""
    body = README.read_text(encoding="utf-8").split("## How to Run")[1]
    blocks = [block.strip() for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", body, re.M | re.S)]
    assert len(blocks) >= 2 and all("\n" not in block for block in blocks[:2]), "the first two code blocks of How to Run are one line each"
    assert "nbconvert" in blocks[0] and "--execute" in blocks[0] and "pytest" in blocks[1]
    script = [line for line in (REPO / ".ci" / "run").read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert script == [blocks[1]], ".ci/run must call the README's test command and nothing else"
    workflow = "\n".join(path.read_text() for path in (REPO / ".github" / "workflows").glob("*.yml"))
    assert "bash .ci/run" in workflow, "the workflow must run .ci/run"


# requirements.txt

def test_requirements():
    lines = [line for line in (REPO / "requirements.txt").read_text().splitlines() if line.strip() and not line.startswith("#")]
    found = {requirement.name: requirement for requirement in map(Requirement, lines)}
    assert set(found) == {"tensorflow", "numpy", "matplotlib", "seaborn", "scikit-learn", "jupyter", "nbconvert"}
    for requirement in found.values():
        operators = {clause.operator for clause in requirement.specifier}
        assert operators == {">=", "<"}, f"{requirement}: give the oldest and the newest version that works"
