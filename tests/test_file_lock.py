"""One process holds a file; where a file cannot be opened its path is said, with either kind of lock."""

import pytest

from atrous import file_lock
from atrous.checked_arguments import checked
from atrous.errors import AtrousError

KINDS = [file_lock._locked_by_sqlite, *([file_lock._locked_by_fcntl] if file_lock.fcntl else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_taken_and_given_back(kind, tmp_path):
    for _ in range(2):
        with kind(tmp_path / "lock") as locked:
            assert locked
    assert (tmp_path / "lock").read_bytes() == b""


def test_another_connection_finds_it_taken(tmp_path):
    with (
        file_lock._locked_by_sqlite(tmp_path / "lock") as first,
        file_lock._locked_by_sqlite(tmp_path / "lock") as second,
    ):
        assert (first, second) == (True, False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["", "absent/lock", "file/lock"])
def test_a_file_that_cannot_be_opened_is_named(kind, place, tmp_path):
    (tmp_path / "file").write_bytes(b"")

    def lock() -> None:
        with kind(tmp_path / place):
            pytest.fail("nothing to lock")

    with pytest.raises(OSError, match=str(tmp_path / place)):
        lock()
    with pytest.raises(AtrousError, match=str(tmp_path / place)):
        checked(lock)()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_inside_is_not_the_locks(kind, tmp_path):
    with pytest.raises(ZeroDivisionError), kind(tmp_path / "lock"):
        raise ZeroDivisionError
