"""Files that hold secrets: private from the first moment, whole at every moment, read by their owner only."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.files import (
    READ_LIMIT,
    SecretFileError,
    SecretMissingError,
    begun_secret,
    make_private_folder,
    read_secret,
    replace_secret,
    too_open,
    write_secret,
)

SECRET = bytes(range(256))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    kept = os.umask(0)
    yield os.umask
    os.umask(kept)


@pytest.fixture
def secret(tmp_path):
    write_secret(tmp_path / "secret", SECRET)
    return tmp_path / "secret"


def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208


# Made.


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("write", [write_secret, replace_secret])
def test_what_is_written_is_its_owners_alone_whatever_the_umask(tmp_path, umask, write, mask):
    umask(mask)
    write(tmp_path / "secret", SECRET)
    assert mode(tmp_path / "secret") == 0o600
    assert read_secret(tmp_path / "secret") == SECRET


def test_a_new_file_never_overwrites_one(secret):
    with pytest.raises(FileExistsError):
        write_secret(secret, b"another")
    assert read_secret(secret) == SECRET


@pytest.mark.parametrize("target", ["secret", "nowhere"])
def test_a_new_file_is_never_written_through_a_link(secret, tmp_path, target):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError):
        write_secret(link, b"another")
    assert read_secret(secret) == SECRET
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("write", [write_secret, replace_secret])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path, write):
    with pytest.raises(TypeError):
        write(tmp_path / "secret", "text is no secret")
    with pytest.raises(OSError):  # noqa: PT011  (which, the system decides)
        write(tmp_path / "no" / "such" / "folder", SECRET)
    assert list(tmp_path.iterdir()) == []


def test_a_replacement_that_fails_leaves_the_old_file(secret, tmp_path):
    with pytest.raises(TypeError):
        replace_secret(secret, None)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        replace_secret(folder, SECRET)
    assert read_secret(secret) == SECRET
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "secret"]


def test_a_replacement_is_private_even_where_the_old_file_was_not(secret):
    secret.chmod(0o644)
    replace_secret(secret, b"another")
    assert mode(secret) == 0o600


def test_a_replacement_takes_the_place_of_a_link_and_leaves_what_it_led_to(secret, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(secret)
    replace_secret(link, b"another")
    assert not link.is_symlink()
    assert (read_secret(link), read_secret(secret)) == (b"another", SECRET)


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_written_bit_by_bit_is_there_once_all_of_it_is(tmp_path, umask, replace):
    path = tmp_path / "dump"
    if replace:
        path.write_bytes(b"old")
    with begun_secret(path, replace=replace) as file:
        file.write(SECRET)
        file.flush()
        assert path.exists() is replace
        assert not replace or path.read_bytes() == b"old"
        assert {mode(one) for one in tmp_path.iterdir() if one != path} == {0o600}
        file.write(SECRET)
    assert (path.read_bytes(), mode(path)) == (2 * SECRET, 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("replace", [False, True])
def test_what_was_begun_and_fails_leaves_everything_as_it_was(tmp_path, replace):
    path = tmp_path / "dump"
    if replace:
        path.write_bytes(b"old")

    def begin():
        with begun_secret(path, replace=replace) as file:
            file.write(SECRET)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert [one.read_bytes() for one in tmp_path.iterdir()] == ([b"old"] if replace else [])


def test_what_comes_while_a_file_is_written_is_not_replaced(tmp_path):
    path = tmp_path / "dump"

    def begin():
        with begun_secret(path) as file:
            file.write(SECRET)
            path.write_bytes(b"another's")

    with pytest.raises(FileExistsError):
        begin()
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"another's"]


def test_readers_see_the_old_bytes_or_the_new_and_never_half(secret):
    one, two = b"a" * 50_000, b"b" * 70_000
    replace_secret(secret, one)
    done = threading.Event()

    def write():
        for _ in range(60):
            replace_secret(secret, two)
            replace_secret(secret, one)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        assert read_secret(secret) in (one, two)
        reads += 1
    writer.join()
    assert reads > 10


# Read.


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777, 0o4640])
def test_a_file_that_others_may_use_is_refused_and_says_what_to_do(secret, bits):
    secret.chmod(bits)
    with pytest.raises(SecretFileError, match=f"do: chmod 600 {secret}"):
        read_secret(secret)


@pytest.mark.parametrize("bits", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_is_read(secret, bits):
    secret.chmod(bits)
    assert read_secret(secret) == SECRET


def test_a_link_is_followed_and_what_it_leads_to_is_judged(secret, tmp_path):
    folder = tmp_path / "..data"
    folder.mkdir()
    secret.rename(folder / "secret")
    link = tmp_path / "secret"
    link.symlink_to("..data/secret")
    assert read_secret(link) == SECRET
    (folder / "secret").chmod(0o644)
    with pytest.raises(SecretFileError, match="chmod"):
        read_secret(link)


def test_a_missing_file_is_told_apart_and_is_still_one_of_ours(tmp_path):
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "nowhere", dangling):
        with pytest.raises(SecretMissingError, match=path.name) as raised:
            read_secret(path)
        assert isinstance(raised.value, (SecMiddlewareError, FileNotFoundError))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_what_is_no_regular_file_is_refused_at_once_and_nothing_stays_open(tmp_path, make):
    make(tmp_path / "secret", 0o700)
    before = descriptors()
    for _ in range(5):
        with pytest.raises(SecretFileError, match="not a regular file"):
            read_secret(tmp_path / "secret")
    assert descriptors() == before


def test_a_device_is_refused():
    with pytest.raises(SecretFileError, match="not a regular file"):
        read_secret("/dev/zero")


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(SecretFileError, match="cannot be read"):
        read_secret(tmp_path / "a")


def test_a_path_through_a_file_is_refused(secret):
    with pytest.raises(SecretFileError, match="cannot be read"):
        read_secret(secret / "below")


def test_a_file_may_have_as_many_bytes_as_the_limit_and_no_more(secret):
    assert read_secret(secret, limit=len(SECRET)) == SECRET
    with pytest.raises(SecretFileError, match="larger than 255 bytes"):
        read_secret(secret, limit=len(SECRET) - 1)
    replace_secret(secret, b"x" * (READ_LIMIT + 1))
    with pytest.raises(SecretFileError, match="larger"):
        read_secret(secret)


def test_no_error_quotes_what_stands_in_the_file(secret):
    replace_secret(secret, b"hunter2")
    secret.chmod(0o644)
    with pytest.raises(SecretFileError) as raised:
        read_secret(secret)
    assert "hunter2" not in str(raised.value)


# Folders.


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_private_folder_is_its_owners_alone_and_ignored_by_git(tmp_path, umask, mask):
    umask(mask)
    folder = tmp_path / "parent" / "pki"
    make_private_folder(folder)
    assert mode(folder) == 0o700
    assert mode(folder.parent) == 0o777 & ~mask
    assert (folder / ".gitignore").read_bytes() == b"*\n"


def test_a_private_folder_that_is_there_is_left_as_it_is(tmp_path):
    folder = tmp_path / "pki"
    folder.mkdir(mode=0o700)
    (folder / ".gitignore").write_text("!important\n")
    make_private_folder(folder)
    make_private_folder(str(folder))
    assert (folder / ".gitignore").read_text() == "!important\n"


@pytest.mark.parametrize("bits", [0o755, 0o770, 0o701])
def test_a_folder_that_others_may_use_is_refused(tmp_path, bits):
    folder = tmp_path / "pki"
    folder.mkdir()
    folder.chmod(bits)
    with pytest.raises(SecretFileError, match=f"chmod 700 {folder}"):
        make_private_folder(folder)
    assert list(folder.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_refused(secret):
    with pytest.raises(SecretFileError, match="not a folder"):
        make_private_folder(secret)


def test_too_open_judges_what_a_link_leads_to(secret, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert not too_open(link)
    secret.chmod(0o640)
    assert too_open(link)
    with pytest.raises(FileNotFoundError):
        too_open(tmp_path / "nowhere")


def test_what_root_makes_in_somebodys_folder_is_that_somebodys(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, 12345, 23456)
    write_secret(folder / "kek", b"secret")
    replace_secret(folder / "kek", b"another")
    write_secret(folder / "floor", b"1")
    owner = folder.stat()
    for path in folder.iterdir():
        assert (path.stat().st_uid, path.stat().st_gid) == (owner.st_uid, owner.st_gid)
