"""What the committed notebook shows: complete, clean and true of the model."""

import base64
import io
import json
import re

import numpy as np
import pictures
import pytest
from PIL import Image
from scipy import ndimage
from scipy.stats import binomtest
from submission import (
    FIGURES,
    NOTEBOOK,
    REPO,
    accuracy,
    cell_of,
    code_cells,
    number_in,
    problems,
    rows_of,
    shown,
    tagged,
)


def test_every_cell_was_run_once_in_order(committed):
    counts = [cell.execution_count for cell in code_cells(committed)]
    expected = list(range(1, len(counts) + 1))
    assert counts == expected, "run the README's first command again"


def test_the_run_was_a_full_one(committed):
    values = {}
    exec(tagged(committed, "parameters"), values)
    assert values["RETRAIN"] is True
    assert values["RUN_COMPARISON"] is True
    assert values["SEED"] == 42
    assert values["TRAINING_IMAGES"] == 54_000
    assert 20 <= values["EPOCHS"] <= 30


def test_no_errors_warnings_or_control_characters(committed):
    assert not problems(committed), "\n".join(problems(committed))


def test_no_path_of_one_machine(committed):
    text = json.dumps(committed, ensure_ascii=False)
    folders = "home|root|work|tmp|Users|mnt|content|usr|var|opt"
    found = re.search(rf"(?<![\w.])/({folders})/|[A-Z]:\\\\", text)
    assert not found, f"a path of one machine is in the notebook: {found}"


def test_github_can_render_it(committed):
    size = (REPO / NOTEBOOK).stat().st_size
    assert size < 1_000_000, "lower figure.dpi: GitHub may not show so large a notebook"
    assert "widgets" not in committed.metadata, "clear the widget state"


def test_figures_are_in_the_notebook(committed):
    images = 0
    for cell in code_cells(committed):
        for output in cell.outputs:
            images += "image/png" in output.get("data", {})
    assert images >= len(FIGURES)


def test_tables_are_complete_as_plain_text(committed):
    """LaTeX and terminals show text/plain in the place of text/html."""
    tables = 0
    for cell in code_cells(committed):
        for row in rows_of(committed, cell.id):
            tables += 1
            for value in row:
                assert value in shown(cell), f"{cell.id}: {value} is not in the text"
    assert tables > 50


def in_few_pixels(image):
    """An image so small that another layout of the same figure hardly shows."""
    small = image.convert("L").resize((32, 24), Image.Resampling.BOX)
    return np.asarray(small, dtype=float).ravel()


@pytest.mark.parametrize("name", FIGURES)
def test_figure_in_the_file_is_the_one_shown(name, committed):
    (cell,) = [cell for cell in code_cells(committed) if f"{name}.png" in cell.source]
    pages = [output.data for output in cell.outputs if "data" in output]
    (page,) = [data["image/png"] for data in pages if "image/png" in data]
    inline = in_few_pixels(Image.open(io.BytesIO(base64.b64decode(page))))
    saved = in_few_pixels(Image.open(REPO / "figures" / f"{name}.png"))
    alike = np.corrcoef(inline, saved)[0, 1]
    assert alike > 0.97, "run the notebook again: the figures differ"


def test_contents_lead_to_the_sections(committed):
    texts = [cell.source for cell in committed.cells if cell.cell_type == "markdown"]
    headings = re.findall(r"^#+ (.+)$", "\n".join(texts), re.M)
    places = {heading.replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]+)\)", "\n".join(texts)))
    missing = {link for link in links if link not in places}
    assert links and not missing, f"these links lead nowhere: {missing}"


def test_score_is_the_models(committed, model, x_test, y_test):
    measured = accuracy(model, x_test, y_test)
    text = shown(cell_of(committed, "predict"))
    assert measured >= 0.996, "the committed network is to read 99.6 % or more"
    assert f"test accuracy: {measured:.2%}" in text
    assert f"errors: {round(10_000 * (1 - measured))} of 10,000" in text


def test_best_epoch_is_the_saved_one(committed):
    """The best epoch's validation loss and accuracy are the final network's."""
    text = shown(cell_of(committed, "train-result"))
    validation = next(
        row for row in rows_of(committed, "parts") if row[0] == "validation"
    )
    assert abs(number_in(text, "validation loss:") - float(validation[1])) <= 0.0002
    kept = 100 * float(validation[2])
    assert abs(number_in(text, "validation accuracy:") - kept) <= 0.02


@pytest.fixture(scope="module")
def conditions(committed):
    """The percentage read under each scanning condition, as shown."""
    text = shown(cell_of(committed, "scan-scores"))
    return {
        name.strip(): float(value)
        for name, value in re.findall(r"^([a-z ]+?) +([\d.]+)%", text, re.M)
    }


def test_scanning_conditions_meet_the_goal(conditions):
    values = [value for name, value in conditions.items() if name != "mean"]
    assert len(values) == 17
    assert min(values) >= 90
    assert conditions["mean"] >= 98.5
    assert abs(np.mean(values) - conditions["mean"]) < 0.01


def test_grey_paper_measured_again(conditions, model, x_test, y_test):
    measured = 100 * accuracy(model, 0.3 + 0.7 * x_test, y_test)
    assert abs(measured - conditions["grey paper"]) < 0.02


@pytest.mark.parametrize("name", ["specks", "motion blur", "ruled line", "turned"])
def test_condition_measured_again(name, conditions, committed, model, x_test, y_test):
    names = {"np": np, "ndimage": ndimage, "Image": Image}
    names["PIXELS"] = np.mgrid[:28, :28].astype("float32")
    exec(tagged(committed, "faults"), names)
    measured = 100 * accuracy(model, names["scan"](x_test, name), y_test)
    assert abs(measured - conditions[name]) < 0.02


NETWORKS = {
    "R1 dense 128, 64": "109,386",
    "R2 dense 128, 64, dropout": "109,386",
    "R3 CNN 32, 64, 64": "121,994",
    "R4a dense 128, dropout": "101,770",
    "R4b CNN 32, 64, dropout": "121,930",
    "R5 residual": "310,762",
    "course, two blocks": "824,458",
    "course, three blocks": "390,410",
    "course, three blocks, all": "390,410",
    "final, all": None,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_comparison_has_the_network(name, committed):
    rows = {row[0]: row for row in rows_of(committed, "comparison")}
    assert name in rows
    if NETWORKS[name]:
        assert rows[name][1] == NETWORKS[name], "its parameters"


def test_comparison_shows_possible_values(committed):
    rows = rows_of(committed, "comparison")
    assert len(rows) >= 15
    for name, _, errors, share, scans, turkish in rows:
        assert share == f"{1 - int(errors) / 10_000:.2%}", name
        assert int(errors) < (1000 if "dense" in name else 400), name
        assert 30 < float(scans.rstrip("%")) < 100, name
        assert 50 < float(turkish.rstrip("%")) < 100, name


def test_impact_follows_from_the_comparison(committed):
    comparison = {row[0]: row for row in rows_of(committed, "comparison")}
    names = {}
    exec(cell_of(committed, "steps").source.split("\n\n\n")[0], names)
    rows = rows_of(committed, "steps")
    assert len(rows) == len(names["STEPS"])
    for (step, before, after), row in zip(names["STEPS"], rows):
        assert row[0] == step
        was, now = int(comparison[before][2]), int(comparison[after][2])
        assert row[1] == f"{was} → {now}"
        verdict = "undecided"
        if float(row[5]) < 0.05:
            verdict = "better" if now < was else "worse"
        assert row[4] == verdict


def test_each_step_is_named_under_its_verdict(committed):
    cell = cell_of(committed, "steps")
    names = {}
    exec(cell.source.split("\n\n\ndef ")[0], names)
    column = {"on test digits": 4, "on bad scans": 6, "on Turkish digits": 7}
    expected = {"better": [], "undecided": [], "worse": []}
    for row in rows_of(committed, "steps"):
        yardstick = names["MEANT_FOR"].get(row[0], "on test digits")
        expected[row[column[yardstick]]].append(row[0])
    in_one_line = " ".join(shown(cell).split())
    for verdict, steps in expected.items():
        line = f"{verdict} where meant to help: {'; '.join(steps) or 'none'}"
        assert line in in_one_line


def errors_after_full_training(nb, augmentation):
    """What section 9.4 says of the final network: its errors on validation digits."""
    text = cell_of(nb, "full-training-md").source
    row = rf"^\| final \| {augmentation} \| [\d,]+ \| (\d+) \|"
    return int(re.search(row, text, re.M)[1])


def test_full_training_names_the_published_run(committed):
    row = next(row for row in rows_of(committed, "parts") if row[0] == "validation")
    errors = round(6000 * (1 - float(row[2])))
    stated = errors_after_full_training(committed, "all")
    assert stated == errors, "section 9.4: update the last row"


def test_section_5_says_what_augmentation_brings(committed):
    text = cell_of(committed, "train-md").source
    stated = re.search(r"misread (\d+) of .+ misread (\d+), .+ only (\d+) \(", text)
    assert [int(number) for number in stated.groups()] == [
        errors_after_full_training(committed, kind) for kind in ("none", "moves", "all")
    ]


@pytest.fixture(scope="module")
def confidence_on_test(model, x_test, y_test):
    """The confidence in each test digit, (10000,), and whether it is read correctly."""
    probabilities = model.predict(x_test, batch_size=500, verbose=0)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == y_test


@pytest.mark.parametrize("number, target", enumerate(["none", "0.10%", "0.05%"]))
def test_thresholds_leave_what_they_say(number, target, committed, confidence_on_test):
    row = rows_of(committed, "refusal")[number]
    assert row[0] == target
    errors, accepted = map(int, row[3].replace(",", "").split(" of "))
    confidence, right = confidence_on_test
    # the threshold is shown to four places
    low, high = float(row[1]) - 5e-5, float(row[1]) + 5e-5
    assert (confidence >= high).sum() <= accepted <= (confidence >= low).sum()
    wrong = confidence[~right]
    assert (wrong >= high).sum() <= errors <= (wrong >= low).sum()


def test_threshold_is_tried_on_every_kind_of_scan(committed, conditions):
    names = {row[0] for row in rows_of(committed, "threshold-scans")}
    assert names == set(conditions) - {"mean"} | {"clean", "digits from Turkey"}


def test_threshold_on_clean_digits_measured_again(committed, confidence_on_test):
    row = next(
        row for row in rows_of(committed, "threshold-scans") if row[0] == "clean"
    )
    threshold = float(rows_of(committed, "refusal")[1][1])
    confidence, right = confidence_on_test
    accepted = confidence >= threshold
    refused, misread = [float(value.rstrip("%")) for value in row[1:]]
    assert abs(refused - 100 * (~accepted).mean()) <= 0.11
    assert abs(misread - 100 * (~right[accepted]).mean()) <= 0.011


@pytest.mark.parametrize("number", [0, 1, 2])
def test_parcels_follow_from_the_errors(number, committed):
    row = rows_of(committed, "refusal")[number]
    errors, accepted = map(int, row[3].replace(",", "").split(" of "))
    by_machine = 5_000_000 * (accepted / 10_000) ** 5
    interval = binomtest(errors, accepted).proportion_ci(method="exact")
    expected = [f"{1 - accepted / 10_000:.2%}"]
    people = f"{round(5_000_000 - by_machine, -3):,.0f}"
    for rate in (errors / accepted, interval.low, interval.high):
        expected.append(f"{round(by_machine * (1 - (1 - rate) ** 5), -3):,.0f}")
    assert row[4] == people
    assert [row[2], *row[5:]] == expected


def test_speed_table(committed):
    rows = rows_of(committed, "speed-table")
    names = [row[0] for row in rows]
    assert names == ["model.predict", "compiled graph", "Lite, float32", "Lite, 8 bits"]
    one = [float(row[2]) for row in rows]
    batch = [float(row[3].replace(",", "")) for row in rows]
    differ = [int(row[4]) for row in rows]
    assert one[0] >= 20 * min(
        one
    ), "a single digit is read faster without model.predict"
    assert min(batch) > 1000
    float_size, int_size = [float(row[1].replace(",", "")) for row in rows[2:]]
    assert int_size <= 0.3 * float_size, "8 bits take about a quarter of 32"
    assert max(differ) <= 10


def test_conclusion_counts_its_goals(committed):
    rows = rows_of(committed, "goals")
    met = [row[-1] for row in rows].count("yes")
    assert f"meets {met} of {len(rows)} goals" in shown(cell_of(committed, "goals"))


def test_conclusion_names_each_missed_goal(committed):
    text = shown(cell_of(committed, "goals"))
    missed = [row[0] for row in rows_of(committed, "goals") if row[-1] == "no"]
    assert re.findall(r"Missed: (.+), [\d.,]+%? ", text) == missed


def test_conclusion_counts_parcels_as_section_12_does(committed):
    alone, helped = rows_of(committed, "refusal")[:2]
    text = shown(cell_of(committed, "goals"))
    assert f"Alone, it would send {alone[5]} parcels" in text
    assert f"If people read {helped[4]} parcels, {helped[5]} still" in text


def test_stricter_target_is_weighed(committed):
    text = shown(cell_of(committed, "stricter"))
    rows = rows_of(committed, "refusal")
    for target, before, after in (("0.10%", *rows[:2]), ("0.05%", *rows[1:])):
        people = int(after[4].replace(",", "")) - int(before[4].replace(",", ""))
        astray = int(before[5].replace(",", "")) - int(after[5].replace(",", ""))
        expected = f"people read {people:,} more parcels, and {astray:,} fewer"
        assert f"target {target}: {expected}" in text


@pytest.mark.parametrize("a, b", [(3, 8), (4, 9)])
def test_pairs_known_as_hard_are_always_shown(a, b, committed):
    counts = rf"{a} read as {b}: \d+, {b} read as {a}: \d+"
    assert re.search(counts, shown(cell_of(committed, "pairs")))


def test_reader_is_used_before_it_is_explained(committed):
    sentence = r"The digit is \d \(confidence [\d.]+%\)"
    assert re.search(sentence, shown(cell_of(committed, "use")))
    ids = [cell.id for cell in committed.cells]
    assert ids.index("use") < ids.index("kinds") < ids.index("five-steps")


def test_each_rule_of_the_reader_saves_pictures(committed):
    rows = rows_of(committed, "rules")
    assert len(rows) >= 10
    for rule, pictures_of, handled, without in rows:
        saved = int(handled) - int(without)
        assert saved >= 2, f"{rule} saves {saved} of 100 pictures ({pictures_of})"


@pytest.fixture(scope="module")
def seeds(committed):
    """The table of the five seeds: {seed or "mean": percentages}."""
    lines = re.findall(
        r"^\| (\w+) \| ([\d. |]+) \|$", cell_of(committed, "seeds-md").source, re.M
    )
    return {name: np.array(values.split(" | "), float) for name, values in lines}


def test_row_of_this_seed_is_measured_again(
    seeds, committed, conditions, prepare_digit, model, x_test, y_test
):
    measured = [100 * accuracy(model, x_test, y_test), conditions["mean"]]
    measured.append(
        number_in(shown(cell_of(committed, "others")), "digits from Turkey:")
    )
    for digit in (1, 7):
        right = 0
        for i in range(300):
            source = pictures.drawn(digit, np.random.default_rng([digit, i]))
            right += pictures.read(source, prepare_digit, model) == digit
        measured.append(right / 3)
    # percent: one digit of 300 is 0.33
    tolerance = np.array([0.02, 0.02, 0.1, 0.7, 0.7])
    assert (np.abs(seeds["42"] - measured) <= tolerance).all(), measured


def test_mean_of_the_seeds(seeds):
    rows = [values for name, values in seeds.items() if name.isdigit()]
    assert rows, "list at least the seed of this run"
    if len(rows) > 1:
        np.testing.assert_allclose(np.mean(rows, axis=0), seeds["mean"], atol=0.006)
