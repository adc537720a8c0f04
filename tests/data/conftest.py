import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Indexes of a test are its own."""
    monkeypatch.setenv("LOOKTWICE_CACHE", str(tmp_path_factory.mktemp("cache")))
