"""The gallery shows what its commands draw, in small files."""

import importlib.util

import matplotlib.image
import pytest

from tests.support.paths import ROOT

SPEC = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "gallery.py")
assert SPEC is not None
assert SPEC.loader is not None
gallery = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)
FOLDER = ROOT / "docs" / "gallery"


def test_every_experiment_is_in_the_gallery_with_all_its_pictures():
    found = {section.name: section for section in gallery.sections()}
    names = {path.stem for path in (ROOT / "experiments").iterdir() if path.stem[0] not in "_c"}
    assert found.keys() == (names - {"README"}) | {"categorical_mle", "cifar10"}
    files = {f"{name}-{picture}" for name, each in found.items() for picture in each.pictures}
    assert files == {path.stem for path in FOLDER.glob("*.png")}


def test_pictures_are_small_and_wide():
    sizes = {path.name: path.stat().st_size for path in FOLDER.glob("*.png")}
    assert max(sizes.values()) < 100_000
    assert sum(sizes.values()) < 1_000_000
    for name in sizes:
        assert matplotlib.image.imread(FOLDER / name).shape[1] == 1600


@pytest.mark.slow
def test_a_command_of_the_page_draws_its_pictures(tmp_path):
    gallery.main(["divergences", "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "divergences-bernoulli.png",
        "divergences-simplex.png",
    }
