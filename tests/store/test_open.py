"""Opening: only our file, only on a local disk, only once, and readable by its owner only."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gpuq.errors import Conflict, Incompatible, InvalidRequest
from gpuq.store import Store, localdisk


def test_a_new_database_is_durable_by_default_and_private(path: Path, store: Store) -> None:
    assert store.epoch == 1
    assert re.fullmatch("[0-9a-f]{32}", store.cluster_id)
    conn = store.write_connection
    assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert conn.execute("PRAGMA synchronous").fetchone() == (2,)
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    assert len(files) == 4  # with -wal, -shm and .lock
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_database_that_others_could_read_is_made_private(path: Path) -> None:
    Store.open(path).close()
    path.chmod(0o644)
    Store.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_home_is_made_private(tmp_path: Path) -> None:
    Store.open(tmp_path / "home" / "controller" / "controller.db").close()
    assert (tmp_path / "home" / "controller").stat().st_mode & 0o777 == 0o700


def test_readers_cannot_write(store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.reader.execute("DELETE FROM meta")


def test_a_second_controller_is_refused_by_the_pid_of_the_first(path: Path, store: Store) -> None:
    with pytest.raises(Conflict, match=f"in use by another controller .pid {os.getpid()}.$"):
        Store.open(path)
    store.close()
    Store.open(path).close()


def test_a_killed_controller_leaves_no_lock(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from gpuq.store import Store;"
        "Store.open(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, path], check=False, cwd=Path(__file__).parents[2])
    assert died.returncode == -9
    Store.open(path).close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"my thesis\n" * 1000)
    with pytest.raises(Conflict, match="not a usable gpuq database"):
        Store.open(path)
    assert path.read_bytes() == b"my thesis\n" * 1000


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    conn = sqlite3.connect(path)
    conn.execute("CREATE TABLE jobs (id)")
    conn.close()
    before = path.read_bytes()
    with pytest.raises(Conflict, match="is not a gpuq database"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_newer_gpuqs_database_is_refused_and_left_alone(path: Path) -> None:
    store = Store.open(path)
    store.write_connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
    store.close()
    before = path.read_bytes()
    with pytest.raises(Incompatible, match="schema 99"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_file_left_empty_by_a_crash_is_used(path: Path) -> None:
    path.touch()
    Store.open(path).close()


def test_a_directory_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Conflict, match=r"controller\.db cannot be used: File exists"):
        Store.open(tmp_path / "file" / "controller.db")


# ---------------------------------------------------------------- network file systems

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:5 / /proc rw - proc proc rw
40 22 0:40 / /home rw,relatime shared:2 - autofs systemd-1 rw,fd=30
41 40 0:41 / /home rw,relatime shared:3 - nfs4 server:/home rw,vers=4.2
42 41 8:2 / /home/ada/local rw - xfs /dev/sdb1 rw
43 22 0:43 / /mnt/my\\040share rw - cifs //server/share rw
44 22 0:44 / /sshfs rw master:1 - fuse.sshfs host:/ rw
45 22 0:45 / /scratch rw - lustre mgs:/scratch rw
46 22 0:46 / /ntfs rw - fuseblk /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/", "ext4"),
        ("/homes", "ext4"),
        ("/home", "nfs4"),
        ("/home/ada", "nfs4"),
        ("/home/ada/local/x", "xfs"),
        ("/mnt/my share/gpuq", "cifs"),
        ("/mnt/my", "ext4"),
        ("/sshfs/x", "fuse.sshfs"),
    ],
)
def test_the_mount_that_covers_a_directory_is_found(directory: str, kind: str) -> None:
    assert localdisk.file_system(Path(directory), MOUNTS) == kind


def test_an_unreadable_mount_table_says_nothing() -> None:
    assert localdisk.file_system(Path("/x"), "") == ""
    assert localdisk.file_system(Path("/x"), "nonsense\n\n1 2 3\n") == ""


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "9p",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "glusterfs",
        "fuse.sshfs",
        "fuse.juicefs",
    ],
)
def test_a_network_file_system_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 22 0:40 / {tmp_path}/home rw - {kind} server:/x rw\n")
    monkeypatch.setattr(localdisk, "MOUNTINFO", mounts)
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(InvalidRequest) as refused:
        Store.open(home / "controller.db")
    assert "--home" in refused.value.hint
    assert f"({kind})" in refused.value.message
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "f2fs"])
def test_a_local_disk_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - {kind} /dev/sda1 rw\n")
    monkeypatch.setattr(localdisk, "MOUNTINFO", mounts)
    Store.open(tmp_path / "home" / "controller.db").close()


def test_where_the_kernel_does_not_say_the_database_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localdisk, "MOUNTINFO", tmp_path / "missing")
    Store.open(tmp_path / "controller.db").close()
