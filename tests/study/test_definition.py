"""Studies as files: what they spread out into, and what is refused, with where."""

import itertools
from pathlib import Path

import pytest
from PIL import Image

from looktwice.augment import from_tables
from looktwice.errors import DataError, UsageError
from looktwice.models.backbones import build_backbone
from looktwice.study import open_study, read_study, study_names
from looktwice.study.measures import check_measures
from looktwice.study.planning import plan

BASE = 'recipe = "simclr-tiny"\n[settings]\ntrain.epochs = 1.0\n'
CLAIM = "[variants]\na = {}\nb = {}\n[[claims]]\ntext = 'x'\nhigher = ['a']\nlower = ['b']\n"
EMOJI = ("composition", "color-histogram", "color-strength", "head", "downcrop", "aug-plus",
         "mutual-information", "cost")  # fmt: skip


def read(text):
    return read_study(BASE + text, "mine", where="mine.toml")


def test_a_study_of_ones_own_is_ten_lines_at_most():
    text = Path(__file__).with_name("small_study.py").read_text().split('STUDY = """')[1]
    assert len(text.split('"""')[0].strip().splitlines()) <= 10


def test_axes_are_every_combination_in_order():
    study = read(
        "[axes]\naugment.strength = [0.5, 1.0]\n"
        "[axes.arm]\nself = {}\nlabels = { method.name = 'supervised' }\n"
    )
    names = [f"{a} · {b}" for a, b in itertools.product(("0.5", "1"), ("self", "labels"))]
    assert [variant.name for variant in study.variants] == names
    assert study.variants[3].settings == {"augment.strength": 1.0, "method.name": "supervised"}
    assert study.variants[3].values == {"strength": "1", "arm": "labels"}
    assert study.reference == names[0]


def test_pairs_are_each_alone_and_each_unordered_pair_on_one_branch():
    study = read(
        "[pairs]\nsize = 24\ncrop = [{ name = 'crop', size = 24 }]\n"
        "gray = [{ name = 'gray', p = 1.0 }]\nblur = [{ name = 'blur', p = 1.0 }]\n"
    )
    operations = ("crop", "gray", "blur")
    expected = [
        " + ".join(dict.fromkeys(pair))
        for pair in itertools.combinations_with_replacement(operations, 2)
    ]
    assert [variant.name for variant in study.variants] == expected
    first, second = from_tables(study.variant("crop + gray").settings["augment.views"]).views
    assert [step.name for step in first] == ["crop", "gray"]
    assert [step.name for step in second] == ["center-crop"]
    first, _ = from_tables(study.variant("gray + blur").settings["augment.views"]).views
    assert [step.name for step in first] == ["center-crop", "gray", "blur"]


def test_a_variants_policy_takes_back_what_the_study_says_of_its_own(tmp_path):
    study = read_study(
        BASE + "augment.gray_p = 0.3\n[variants]\nplain = {}\n"
        "auto = { augment.policy = 'autoaugment' }\n",
        "mine",
        where="mine.toml",
    )
    tasks = plan(study, data="fashion-mnist-10k", seeds=1, folder=tmp_path).tasks
    assert [task.config.augment.gray_p for task in tasks] == [0.3, "auto"]


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_are_whole(name, tmp_path, pictures):
    study = open_study(name)
    assert study.title
    assert study.question.endswith("?")
    assert study.source
    assert study.departs
    assert bool(study.data) != (name in EMOJI)
    check_measures(study.measures, name)
    planned = plan(study, data=study.data or str(pictures), seeds=2, folder=tmp_path)
    assert len(planned.tasks) == 2 * len(study.variants)
    assert len({task.folder for task in planned.tasks}) == len(planned.tasks), "two are one run"
    if study.figure.kind in ("lines", "heatmap"):
        axes = study.variants[0].values
        assert {study.figure.x, study.figure.lines} <= axes.keys()


@pytest.mark.parametrize("name", [name for name in study_names() if name != "model-size"])
def test_the_size_of_the_source_can_be_planned(name, tmp_path, pictures):
    study = open_study(name, paper=True)
    tasks = plan(study, data=str(pictures), seeds=1, folder=tmp_path).tasks
    assert len(tasks) == len(open_study(name).variants)
    for task in tasks:
        small = task.config.model.backbone.startswith("resnet-tiny")
        assert not small, task.variant
        assert task.config.train.epochs >= 100 or name in ("cost", "color-histogram")


def test_where_there_is_no_size_of_the_source_it_is_said():
    with pytest.raises(UsageError, match="leave --paper out"):
        open_study("model-size", paper=True)


def test_widths_are_named_with_their_millions_of_parameters():
    for variant in open_study("model-size").variants:
        name = str(variant.settings.get("model.backbone"))
        network = build_backbone(name, channels=1, small_stem=True)
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        assert f", {millions:.2f} M ·" in variant.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("varients = {}", "unknown key 'varients'. Did you mean 'variants'?"),
        ("title = 3\n[variants]\na = {}", "title must be text, not 3"),
        ("", "give what is compared as [axes], as [variants] or as [pairs]; found none"),
        ("[axes]\naugment.strength = 1.0", "augment.strength must be a list of values"),
        ("[axes]\nfoo = 3", "foo must be a table of named settings"),
        ("[axes]\naugment.strenght = [1.0]", "Did you mean"),
        ("[variants]\na = { optim.lr = 3 }", "unknown key 'optim.lr'"),
        ("[variants]\na = { train.seed = 3 }", "train.seed is the same for all variants"),
        ("reference = 'b'\n[variants]\na = {}", "no variant is called 'b'"),
        ("[variants]\na = {}\n[figure]\nkind = 'pie'", "no figure is called 'pie'"),
        ("[variants]\na = {}\n[figure]\ncolour = 'pie'", "unknown key 'colour'"),
        ("[variants]\na = {}\n[[claims]]\ntext = 'x'\nhigher = ['a']\nlower = ['c']", "'c'"),
        ("[variants]\na = {}\n[[claims]]\ntext = 'x'", "higher and lower"),
        ("[variants]\na = {}\n[published.values]\nb = 3.0", "no variant is called 'b'"),
        (CLAIM + "measure = 'linaer'", "'linaer' is not measured. Did you mean 'linear'?"),
        (CLAIM + "mesure = 'knn'", "unknown key 'mesure'. Did you mean 'measure'?"),
        ("[variants]\na = {}\n[published]\nwaht = 'x'", "unknown key 'waht'"),
        ("[variants]\na = {}\n[figure]\nkind = 'lines'\nx = 'n'", "no axis is called 'n'"),
        ("[variants]\na = {}\n[figure]\nkind = 'scatter'\nx = 'n'", "'n' is not measured"),
        ("compare = ['a']\n[variants]\na = {}", "pairs of names"),
        ("[pairs]\ngray = []", "size = pixels"),
        ("recipe = [", "not valid TOML"),
    ],
)
def test_mistakes_are_told_in_one_line_with_the_place(text, said):
    with pytest.raises(UsageError) as caught:
        read_study(text, "mine", where="mine.toml")
    assert str(caught.value).startswith("mine.toml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_studies_and_measures(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'temperature'"):
        open_study("temprature")
    with pytest.raises(UsageError, match="cannot read the study"):
        open_study(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"no measure is called 'liner'. Did you mean 'linear'"):
        check_measures(["liner"], "mine")
    check_measures(["linear-z@48", "percent-1", "labels-100", "lost"], "mine")
    for wrong in ("labels-0", "linear@0", "linear-y", "labels-"):
        with pytest.raises(UsageError):
            check_measures([wrong], "mine")


def test_scores_need_labels_before_anything_is_trained(tmp_path):
    (tmp_path / "flat").mkdir()
    for number in range(30):
        Image.new("RGB", (8, 8)).save(tmp_path / "flat" / f"{number}.png")
    flat = str(tmp_path / "flat")
    with pytest.raises(DataError, match="measures 'linear', which needs labels"):
        plan(read("[variants]\na = {}"), data=flat, folder=tmp_path)
    unlabelled = read_study('measures = ["rank"]\n' + BASE + "[variants]\na = {}", "m", where="m")
    assert plan(unlabelled, data=flat, seeds=1, folder=tmp_path).tasks


def test_what_a_plan_needs(tmp_path):
    study = read("[variants]\na = {}")
    with pytest.raises(UsageError, match="no pictures named"):
        plan(study, folder=tmp_path)
    with pytest.raises(UsageError, match="--seeds is 0"):
        plan(study, data="fashion-mnist-10k", seeds=0, folder=tmp_path)
    with pytest.raises(UsageError, match="--jobs is 0"):
        plan(study, data="fashion-mnist-10k", jobs=0, folder=tmp_path)
    timed = read_study('recipe = "simclr-tiny"\n[variants]\na = {}', "mine", where="mine")
    with pytest.raises(UsageError, match="in epochs or steps"):
        plan(timed, data="fashion-mnist-10k", folder=tmp_path)
