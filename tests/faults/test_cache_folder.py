"""The cache of compiled programs deletes its own files and nobody else's."""

import os

import pytest

from jaxvision import compilation
from tests.test_compilation import home as home


@pytest.fixture(autouse=True)
def nothing_fits(monkeypatch):
    monkeypatch.setattr(compilation, "LIMIT", 10)


def fill(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for name in ("thesis.txt", "jit_step-0123-cache"):
        (folder / name).write_bytes(bytes(400))
    return folder


def check_untouched(folder):
    assert len(list(folder.iterdir())) == 2
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["xla", compilation.NAME])
def test_a_folder_that_was_there_stays_as_it_is(home, name):
    folder = fill(home / name)
    used = compilation.use_cache()
    check_untouched(folder)
    assert used is None or folder not in used.parents


def test_a_link_is_not_followed(home, tmp_path):
    victim = fill(tmp_path / "victim")
    (victim / compilation.MARKER).touch()
    home.mkdir()
    for name in ("xla", compilation.NAME):
        (home / name).symlink_to(victim)
    assert compilation.use_cache() is None
    (victim / compilation.MARKER).unlink()
    check_untouched(victim)


def test_links_and_other_files_in_the_cache_itself_stay(home, tmp_path):
    victim = fill(tmp_path / "victim")
    folder = compilation.use_cache()
    assert folder is not None
    (folder / "thesis.txt").write_bytes(bytes(400))
    (folder / "jit_old-cache").write_bytes(bytes(400))
    (folder / "jit_old-atime").write_bytes(bytes(8))
    (folder / "link-cache").symlink_to(victim / "thesis.txt")
    (folder.parent / "machine").symlink_to(victim)
    (folder / "notes").mkdir()
    (folder / "notes" / "my-cache").write_bytes(bytes(400))
    compilation._prune(folder.parent, limit=10)
    assert {path.name for path in folder.iterdir()} >= {"thesis.txt", "notes"}
    assert os.path.lexists(folder / "link-cache")
    assert (folder / "notes" / "my-cache").exists()
    assert not (folder / "jit_old-cache").exists()
    check_untouched(victim)
    assert (folder.parent / compilation.MARKER).read_text().startswith("jaxvision")


def test_a_second_process_uses_the_same_folder(home):
    assert compilation.use_cache() == compilation.cache_folder() / compilation.machine(
        compilation._processor()
    )
    compilation.jax.config.update(compilation.FOLDER, None)
    assert compilation.use_cache() is not None
