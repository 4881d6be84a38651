"""Whether a path lies on a disk of this machine: SQLite's WAL is shared memory, which no network file system shares."""

from __future__ import annotations

import re
from pathlib import Path

from gpuq.errors import InvalidRequest

MOUNTINFO = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"9p|acfs|afs|autofs|beegfs.*|ceph|cifs|coda|fhgfs.*|glusterfs|gpfs|lustre.*|mmfs|ncpfs|nfs[34]?|orangefs|panfs|pvfs2"
    r"|smb[23]|smbfs|vboxsf|wekafs|fuse\.(afp|alluxio|beegfs|blobfuse2?|ceph.*|davfs2?|gcsfuse|geesefs|glusterfs|goofys"
    r"|gvfsd-fuse|hdfs|juicefs|lizardfs|mfs|moosefs|nfs|orangefs|rclone|s3fs|seaweedfs|smbnetfs|sshfs|wekafs)"
)


def require_local_disk(directory: Path) -> None:
    """Raise InvalidRequest if a directory is on a network file system; pass where the kernel cannot be asked."""
    directory.stat()  # mounts what is mounted on demand
    try:
        mounts = MOUNTINFO.read_text(errors="surrogateescape")
    except OSError:
        return
    kind = file_system(directory.resolve(), mounts)
    if _NETWORK.fullmatch(kind):
        raise InvalidRequest(
            f"{directory} is on a network file system ({kind}), where the controller's database would be damaged",
            "give --home a directory on a local disk",
        )


def file_system(path: Path, mounts: str) -> str:
    """The type of file system a resolved path is on, by the text of /proc/self/mountinfo; '' if it says nothing."""
    kind, depth = "", -1
    for line in mounts.splitlines():
        mount, _, described = line.partition(" - ")
        fields, description = mount.split(" "), described.split(" ")
        if len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        # Of mounts on the same point the last one covers the others.
        if len(point.parts) >= depth and path.is_relative_to(point):
            kind, depth = description[0], len(point.parts)
    return kind
