"""The scikit-learn transformer: the contract of scikit-learn's estimators, on arrays of pictures."""

import copy
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.validation import check_is_fitted

import looktwice
from looktwice.errors import DataError, RunError, UsageError
from looktwice.estimator import load_encoder

SETTINGS = {
    "augment.size": 8,
    "model.backbone": "resnet-tiny-half",
    "train.batch_size": 16,
    "train.steps": 3,
    "train.threads": 1,
}


def embedder(folder, **parameters):
    return looktwice.Embedder("simclr-tiny", settings=SETTINGS, out=folder, **parameters)


def pictures(number=60, shape=(10, 12, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, *shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return embedder(tmp_path_factory.mktemp("runs")).fit(pictures())


def test_importing_looktwice_imports_neither_scikit_learn_nor_torch():
    script = (
        "import sys, looktwice; sys.exit(len({'sklearn', 'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_parameters_are_got_set_and_cloned(tmp_path):
    first = embedder(tmp_path, seed=3)
    assert first.get_params() == {
        "recipe": "simclr-tiny", "settings": SETTINGS, "out": tmp_path, "seed": 3, "verbose": False
    }  # fmt: skip
    copied = clone(first.set_params(seed=4, verbose=True))
    assert copied.get_params() == first.get_params()
    assert (copied.seed, copied.verbose) == (4, True)
    assert repr(copied).startswith("Embedder(")
    assert not list(tmp_path.iterdir())  # nothing is made before fit


def test_it_is_not_fitted_before_fit(tmp_path):
    new = embedder(tmp_path)
    with pytest.raises(NotFittedError):
        new.transform(pictures())
    with pytest.raises(NotFittedError):
        new.get_feature_names_out()


def test_fitted_attributes(fitted, tmp_path):
    check_is_fitted(fitted)
    given = set(fitted.get_params())
    public = {name for name in vars(fitted) if not name.startswith("_")} - given
    assert public == {"run_", "picture_shape_", "n_features_in_"}
    assert (fitted.picture_shape_, fitted.n_features_in_) == ((10, 12, 3), 360)
    assert not hasattr(clone(fitted), "run_")
    tags = fitted.__sklearn_tags__()
    assert (tags.input_tags.two_d_array, tags.input_tags.three_d_array) == (False, True)


def test_features_are_those_of_the_runs_encoder(fitted):
    given = pictures(20, seed=1)
    before = vars(fitted).copy()
    features = fitted.transform(given)
    expected = load_encoder(fitted.run_)(torch_pictures(given)).numpy()
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, expected)
    assert vars(fitted) == before
    names = fitted.get_feature_names_out()
    assert len(names) == features.shape[1]
    assert list(names[:2]) == ["embedder0", "embedder1"]


def torch_pictures(array):
    import torch

    return torch.tensor(array).permute(0, 3, 1, 2)


def test_fit_is_idempotent_and_keeps_every_run(tmp_path):
    given = pictures()
    given.flags.writeable = False  # as joblib hands arrays to its workers
    before = given.copy()
    transformer = embedder(tmp_path)
    first = transformer.fit_transform(given)
    run = transformer.run_
    second = transformer.fit(given, y=["ignored"]).transform(given)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(given, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "simclr-tiny-001",
        "simclr-tiny-002",
    ]
    assert transformer.run_ != run
    other = embedder(tmp_path, seed=1).fit(given).transform(given)
    assert np.abs(other - first).max() > 1e-3


def test_grey_pictures_without_a_channel(tmp_path):
    given = pictures(shape=(10, 12))
    transformer = embedder(tmp_path)
    features = transformer.fit_transform(given)
    assert transformer.n_features_in_ == 120
    expected = load_encoder(transformer.run_)(torch_pictures(given[..., None])).numpy()
    np.testing.assert_array_equal(features, expected)


def test_it_searches_in_a_pipeline(tmp_path):
    labels = np.arange(60) % 2
    given = pictures() // 2
    given[labels == 1] += 100
    steps = [("embedder", embedder(tmp_path)), ("classifier", LogisticRegression(max_iter=2000))]
    shorter = {**SETTINGS, "train.steps": 1}
    grid = {"embedder__settings": [SETTINGS, shorter]}
    search = GridSearchCV(Pipeline(steps), grid, cv=2, error_score="raise").fit(given, labels)
    assert search.best_score_ > 0.9
    assert search.predict(given).shape == (60,)
    assert len(list(tmp_path.iterdir())) == 5  # two folds of two settings, and the last fit
    names = search.best_estimator_[:1].get_feature_names_out()
    assert search.best_estimator_["classifier"].coef_.shape == (1, len(names))
    assert make_pipeline(clone(steps[0][1])).steps[0][0] == "embedder"


def test_a_pickle_refers_to_the_run_and_works_in_another_process(fitted, tmp_path):
    given = pictures(5, seed=2)
    pickled = pickle.dumps(fitted)
    assert len(pickled) < 2000
    (tmp_path / "embedder.pickle").write_bytes(pickled)
    np.save(tmp_path / "given.npy", given)
    script = (
        "import pickle, numpy as np; "
        "transformer = pickle.load(open('embedder.pickle', 'rb')); "
        "np.save('found.npy', transformer.transform(np.load('given.npy')))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), fitted.transform(given))
    np.testing.assert_array_equal(copy.deepcopy(fitted).transform(given), fitted.transform(given))


def test_a_relative_folder_is_remembered_as_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    transformer = embedder("mine").fit(pictures())
    assert transformer.run_ == str(tmp_path / "mine" / "simclr-tiny-001")
    monkeypatch.chdir("/")
    assert len(transformer.transform(pictures(3))) == 3
    shutil.rmtree(transformer.run_)
    with pytest.raises(RunError, match="there is no such folder"):
        transformer.transform(pictures(3))


def test_what_is_no_array_of_such_pictures_is_refused(fitted, tmp_path):
    for wrong in (pictures().astype(np.float64), pictures().reshape(60, -1), [[1, 2]]):
        with pytest.raises(DataError, match="pictures must be"):
            embedder(tmp_path).fit(wrong)
        with pytest.raises(DataError, match="pictures must be"):
            fitted.transform(wrong)
    with pytest.raises(
        ValueError, match=r"shape \(12, 10, 3\), but Embedder was fitted on \(10, 12, 3\)"
    ):
        fitted.transform(pictures(shape=(12, 10, 3)))
    with pytest.raises(UsageError, match=r"train\.epoch'"):
        embedder(tmp_path).set_params(settings={"train.epoch": 3}).fit(pictures())
    with pytest.raises(UsageError, match="batch_size 16 is larger than the 4 training pictures"):
        embedder(tmp_path).fit(pictures(5))
    assert not list(tmp_path.iterdir())  # no run is left of a fit that did not begin


def test_output_as_a_data_frame(fitted):
    transformer = copy.deepcopy(fitted).set_output(transform="pandas")
    frame = transformer.transform(pictures(4))
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(fitted.get_feature_names_out())
    np.testing.assert_array_equal(frame.to_numpy(), fitted.transform(pictures(4)))
