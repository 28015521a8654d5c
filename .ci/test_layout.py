"""What is in the repository, and what is not."""

import re
import shutil
import subprocess

import pytest
from submission import FIGURES, REPO, check_figure

MUST = {"notebooks", "models", "figures", "requirements.txt", "README.md", ".gitignore"}
MAY = {"findings"}


def git(*words):
    command = ["git", "-C", str(REPO), *words]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert not ran.stderr, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def tracked():
    if shutil.which("git") is None or not (REPO / ".git").exists():
        pytest.skip("this is no git clone")
    return git("ls-files").splitlines()


def test_top_level_is_complete(tracked):
    top = {path.split("/")[0] for path in tracked}
    assert MUST <= top, f"missing at the top level: {MUST - top}"


def test_top_level_holds_nothing_else(tracked):
    top = {path.split("/")[0] for path in tracked}
    visible = {name for name in top if not name.startswith(".")}
    assert visible <= MUST | MAY, f"move or remove {visible - MUST - MAY}"


def test_no_data_and_no_leftovers_are_committed(tracked):
    unwanted = r"\.(npz|gz|idx\d?|csv|zip|h5|pyc)$|ubyte|checkpoint|__pycache__"
    bad = [path for path in tracked if re.search(unwanted, path)]
    assert not bad, f"remove with git rm --cached: {bad}"


@pytest.mark.parametrize(
    "path",
    [
        "models/checkpoints/best.keras",
        "mnist.npz",
        ".venv/bin/python",
        "notebooks/.ipynb_checkpoints/a.ipynb",
    ],
)
def test_leftovers_are_ignored(path, tracked):
    assert git("check-ignore", path), f".gitignore does not cover {path}"


@pytest.mark.parametrize("name", FIGURES)
def test_figure(name):
    check_figure(REPO / "figures" / f"{name}.png")


def test_figures_are_the_six(tracked):
    found = {path.split("/")[1] for path in tracked if path.startswith("figures/")}
    assert found == {f"{name}.png" for name in FIGURES}


def test_models_are_these(tracked):
    found = {path.split("/")[1] for path in tracked if path.startswith("models/")}
    assert found == {"mnist_cnn.keras", "mnist_cnn.tflite", "training_log.txt"}


def test_workflow_and_ci_run_the_readme_command():
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^```bash\n(.*?)\n```", readme, re.M | re.S)
    script = (REPO / ".ci" / "run").read_text().splitlines()
    steps = [
        line for line in script if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert steps == commands[1:2], ".ci/run calls the README's second command, no more"
    workflow = (REPO / ".github" / "workflows" / "notebook.yml").read_text()
    assert "bash .ci/run" in workflow, "the workflow must run .ci/run"
