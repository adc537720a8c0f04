"""Links resolve, the site builds without a warning, and the batch by hand is what code gives."""

import json
import math
import runpy
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pages
import pytest
import torch
from PIL import Image

from looktwice.losses import nt_xent

sys.path.insert(0, str(pages.ROOT / "examples"))
import one_batch
import two_crops


@pytest.mark.parametrize(("page", "target"), pages.links())
def test_links_within_the_repository_resolve(page, target):
    if target.startswith(("http:", "https:")):
        return
    path, _, anchor = unquote(target).partition("#")
    found = (pages.ROOT / page).parent / path if path else pages.ROOT / page
    assert found.exists()
    assert not anchor or anchor in pages.anchors(found)


def test_the_index_links_every_page():
    linked = {target.partition("#")[0] for page, target in pages.links() if page == "docs/index.md"}
    written = {page.name for page in (pages.ROOT / "docs").glob("*.md")} - {"index.md"}
    assert written <= linked


def test_the_site_is_built_without_a_warning(tmp_path):
    command = ["sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command, pages.ROOT / "docs", tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "looktwice.losses.nt_xent" in (tmp_path / "api" / "losses.html").read_text("utf-8")


def texts(page):
    return [block.text for block in pages.blocks("text") if block.page == page]


def test_the_numbers_of_the_batch_are_what_the_example_gives():
    computed = [*one_batch.steps().values(), two_crops.lines()]
    assert texts("docs/one_batch.md") == ["\n".join(lines) + "\n" for lines in computed]


def test_its_loss_is_that_of_the_library():
    z = torch.tensor([one_batch.embed(view) for view in one_batch.views()], dtype=torch.float64)
    ours = nt_xent(z[0::2], z[1::2], temperature=one_batch.TEMPERATURE)
    s = (z @ z.T / one_batch.TEMPERATURE).fill_diagonal_(-math.inf)
    partners = torch.tensor(one_batch.PARTNER)
    assert ours.item() == pytest.approx(
        torch.nn.functional.cross_entropy(s, partners).item(), rel=1e-12
    )


def test_its_slopes_are_autograd_s():
    z = torch.tensor([one_batch.embed(view) for view in one_batch.views()], dtype=torch.float64)
    s = (z @ z.T).requires_grad_()
    masked = (s / one_batch.TEMPERATURE).masked_fill(torch.eye(4, dtype=torch.bool), -math.inf)
    torch.nn.functional.cross_entropy(masked, torch.tensor(one_batch.PARTNER)).backward()
    told = [line.split()[1:] for line in one_batch.steps()["slopes"][1:]]
    assert np.abs(np.array(told, float) - s.grad.numpy()).max() <= 5.01e-4


def test_its_figure_shows_those_pictures_and_views():
    views = one_batch.views().reshape(4, 16, 16)
    row = []
    for picture, two in zip(one_batch.pictures(), (views[:2], views[2:]), strict=True):
        row += [np.pad(picture[..., 0], 2), *(np.pad(view, 8) for view in two)]
    drawn = np.hstack(row).repeat(5, axis=0).repeat(5, axis=1)
    assert np.array_equal(np.asarray(Image.open(pages.ROOT / "docs/one_batch.png")), drawn)


@pytest.mark.parametrize("name", ["one_batch", "two_crops"])
def test_examples_print_what_the_page_shows(name, capsys):
    runpy.run_path(str(pages.ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.strip().splitlines()[-1] in "".join(texts("docs/one_batch.md"))


def test_examples_are_short():
    for example in (pages.ROOT / "examples").glob("*.py"):
        assert len(example.read_text("utf-8").splitlines()) <= 80, example.name


NOTEBOOK = pages.ROOT / "examples" / "quickstart.ipynb"


def test_the_notebook_is_kept_small_with_its_outputs():
    assert NOTEBOOK.stat().st_size < 200_000
    cells = [
        cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    assert all(cell["outputs"] for cell in cells if cell["source"])
    assert not [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]


def test_the_notebook_runs(tmp_path):
    runner = [
        sys.executable,
        pages.ROOT / "tests/docs/notebooks.py",
        NOTEBOOK,
        tmp_path / "n.ipynb",
    ]
    done = subprocess.run(runner, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/notebook/encoder.safetensors").is_file()
