"""README.md: its sections, links and commands, and whether its numbers are true."""

import datetime
import json
import re
import zipfile

import pytest
from submission import (
    FIGURES,
    MODEL,
    REPO,
    accuracy,
    cell_of,
    code_cells,
    rows_of,
    shown,
)

README = (REPO / "README.md").read_text(encoding="utf-8")
SECTIONS = ["Dataset", "Model Architecture", "Results", "Visualizations", "How to Run"]
TABLES = ["split", "parts", "comparison", "refusal", "speed-table", "goals"]
# numbers of the task itself, which no cell prints
OF_THE_TASK = {"0", "1", "5", "95", "99", "50,000"}


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


def numbers(text):
    """The numbers in a text as they are written, without link targets."""
    text = re.sub(r"\]\([^)]*\)", "]", text.replace("%", " %"))
    text = re.sub(r"(?<=\d) × (?=\d)", "×", text)
    return set(re.findall(r"(?<![\w.])\d+(?:[,×]\d+)*(?:\.\d+)?(?!\w)", text))


def test_sections():
    assert re.findall(r"^## (.+)$", README, re.M) == SECTIONS


def test_figures_are_shown_in_order():
    images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", section("Visualizations"))
    assert images == [f"figures/{name}.png" for name in FIGURES]


def test_links_lead_somewhere():
    for path in re.findall(r"\]\(([^)\s#]+)\)", README):
        if not path.startswith("https://"):
            assert (
                REPO / path
            ).exists(), f"README.md links to {path}, which is not there"


def test_first_command_executes_the_notebook():
    command = re.findall(r"^```bash\n(.*?)\n```", README, re.M | re.S)[0]
    assert "jupyter nbconvert" in command
    assert "--execute --inplace notebooks/mnist_classification.ipynb" in command


def test_packages_are_named():
    for line in (REPO / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            package = re.match(r"[\w-]+", line)[0]
            assert package in section("How to Run"), f"name the package {package}"


def test_submission_date_is_the_models():
    with zipfile.ZipFile(REPO / MODEL) as file:
        saved = json.loads(file.read("metadata.json"))["date_saved"]
    day = datetime.datetime.strptime(saved.split("@")[0], "%Y-%m-%d")
    assert f"| {day.day} {day:%B %Y} |" in README.split("\n## ")[0]


def test_accuracy_is_the_models(model, x_test, y_test):
    measured = f"{accuracy(model, x_test, y_test):.2%}".replace("%", " %")
    assert measured in README.split("\n## ")[0]
    assert f"| Test accuracy | **{measured}**" in section("Results")


@pytest.mark.parametrize("part", ["training", "validation"])
def test_accuracy_of_the_part(part, committed):
    row = next(row for row in rows_of(committed, "parts") if row[0] == part)
    stated = f"| {part.capitalize()} accuracy | {100 * float(row[2]):.2f} %"
    assert stated in section("Results"), f"README.md should say: {stated}"


def test_every_number_of_the_results_is_in_the_run(committed):
    texts = [shown(cell) for cell in code_cells(committed)]
    for name in ("seeds-md", "full-training-md"):
        texts.append(cell_of(committed, name).source)
    for name in TABLES:
        for row in rows_of(committed, name):
            texts.append(" ".join(row))
    for row in rows_of(committed, "parts"):
        texts.append(f"{float(row[2]):.2%}")  # shown as a share
    headline = re.sub(r"^\|.*", "", README.split("\n## ")[0], flags=re.M)
    stated = numbers(headline + section("Results") + section("Visualizations"))
    unknown = stated - numbers("\n".join(texts)) - OF_THE_TASK
    assert not unknown, f"no cell shows these numbers: {sorted(unknown)}"


def rows_of_blocks(model):
    """What the architecture table says of a model: (output shape, parameters) a block.

    A block ends where the next convolution or Flatten begins.
    """
    blocks, parameters, pooled, shape = [], 0, False, ""
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Flatten" or (kind == "Conv2D" and pooled):
            blocks.append((shape, f"{parameters:,}"))
            parameters, pooled = 0, False
        parameters += layer.count_params()
        pooled = pooled or kind == "MaxPooling2D"
        shape = "×".join(str(size) for size in layer.output.shape[1:])
    return [*blocks, (shape, f"{parameters:,}")]


def test_architecture_table_is_the_models(model):
    text = section("Model Architecture")
    assert re.findall(r"\| ([\d×]+) \| ([\d,]+) \|$", text, re.M) == rows_of_blocks(
        model
    )


def test_parameters_are_the_models(model):
    assert f"{model.count_params():,} parameters" in section("Model Architecture")


SETTINGS = {
    "learning rate": r"Adam\(learning_rate=([\d.]+)",
    "batch size": r"BATCH_SIZE = (\d+)",
    "epochs": r"EPOCHS = (\d+)",
    "seed": r"SEED = (\d+)",
    "plateau": r"ReduceLROnPlateau\([^)]*patience=(\d+)",
    "stopping": r"EarlyStopping\([^)]*patience=(\d+)",
    "rotation": r"rotation_range=(\d+)",
    "shift": r"width_shift_range=([\d.]+)",
    "zoom": r"zoom_range=([\d.]+)",
    "slant": r"shear_range=([\d.]+)",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_is_the_notebooks(name, committed):
    code = "\n".join(cell.source for cell in code_cells(committed))
    value = re.search(SETTINGS[name], code)[1]
    row = re.search(
        rf"^\| {name}[^|]*\| ([^|]+) \|", section("Model Architecture"), re.M | re.I
    )
    assert row, f"README.md has no row for the {name}"
    assert value in numbers(
        row[1]
    ), f"{name}: the notebook says {value}, README.md {row[1]}"
