"""Reading, changing and running the notebook."""

import ast
import copy
import html
import re
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

REPO = Path(__file__).resolve().parent.parent
NOTEBOOK = Path("notebooks/mnist_classification.ipynb")
MODEL = Path("models/mnist_cnn.keras")
FIGURES = [
    "sample_digits",
    "class_distribution",
    "augmentation_examples",
    "training_history",
    "confusion_matrix",
    "misclassified",
]


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def cell_of(nb, name):
    """The cell with this id. The tests go by ids: put one back if it is missing."""
    for cell in nb.cells:
        if cell.id == name:
            return cell
    raise LookupError(f"the notebook has no cell with the id {name!r}")


def tagged(nb, tag):
    """The code of all cells with this tag."""
    sources = []
    for cell in nb.cells:
        if tag in cell.metadata.get("tags", []):
            sources.append(cell.source)
    return "\n\n".join(sources)


def function_of(nb, name, **names):
    """A function of the notebook; names: what it uses from elsewhere."""
    for cell in code_cells(nb):
        if f"def {name}(" in cell.source:
            for part in ast.parse(cell.source).body:
                if getattr(part, "name", None) == name:
                    exec(ast.unparse(part), names)
                    return names[name]
    raise LookupError(f"the notebook has no function {name!r} any more")


def shown(cell):
    """Everything that a cell shows as plain text, however it was cut into pieces."""
    text = ""
    for output in cell.outputs:
        if output.output_type == "stream":
            text += output.text
        else:
            text += output.get("data", {}).get("text/plain", "") + "\n"
    return text


def rows_of(nb, name):
    """The rows of the table that a cell shows, each a list of texts; no header."""
    rows = []
    for output in cell_of(nb, name).outputs:
        page = output.get("data", {}).get("text/html", "")
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.S):
            texts = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
            if "<td" in row:
                rows.append([html.unescape(text) for text in texts])
    return rows


def number_in(text, before):
    """The number that stands after `before` in a text."""
    found = re.search(re.escape(before) + r"\s*([\d.,]*\d)", text)
    assert found, f"there is no number after {before!r} in:\n{text}"
    return float(found[1].replace(",", ""))


def problems(nb):
    """What must not be in an executed notebook, a line each."""
    found = []
    for cell in code_cells(nb):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{cell.id} failed: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"{cell.id} wrote to stderr: {output.text[:300]}")
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", shown(cell)):
            found.append(f"{cell.id} shows control characters: print plain text")
    return found


def with_parameters(nb, **values):
    """A copy of the notebook with other parameters."""
    changed = copy.deepcopy(nb)
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    place = changed.cells.index(cell_of(changed, "parameters")) + 1
    changed.cells.insert(place, nbformat.v4.new_code_cell("\n".join(lines)))
    return changed


def replace_in(nb, name, old, new):
    """Replace code in a cell."""
    cell = cell_of(nb, name)
    assert old in cell.source, f"the cell {name!r} has no {old!r} any more"
    cell.source = cell.source.replace(old, new)


def insert_before(nb, name, source):
    """Insert a code cell before another cell."""
    place = nb.cells.index(cell_of(nb, name))
    nb.cells.insert(place, nbformat.v4.new_code_cell(source))


def run(nb, folder, **options):
    """Execute the notebook's cells in a folder, without a time limit."""
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(nb, resources=resources, kernel_name="python3", **options)
    client.execute()


def check_figure(path):
    """Fail unless the file is a PNG of at least 1000 pixels that shows something."""
    with Image.open(path, formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] >= 1000, f"{path} is too narrow: raise savefig.dpi"
    assert (pixels < 128).mean() > 0.001, f"{path} has hardly any ink"
    assert len(np.unique(pixels)) > 20, f"{path} is blank"


def accuracy(model, images, labels):
    """The share of images (n, 28, 28, 1), 0 to 1, that a model reads correctly."""
    probabilities = model.predict(images, batch_size=500, verbose=0)
    return float((probabilities.argmax(axis=1) == labels).mean())
