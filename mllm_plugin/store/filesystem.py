"""Whether a folder lies where SQLite's locks and write-ahead log can be trusted."""

from __future__ import annotations

import sys
from pathlib import Path

from mllm_plugin.errors import UnsupportedFilesystemError

_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ncpfs",
    "afs",
    "9p",
    "fuse.sshfs",
    "glusterfs",
    "ceph",
    "lustre",
}
_MOUNTS = Path("/proc/self/mounts")


def refuse_network_filesystem(folder: Path, mounts: Path = _MOUNTS) -> None:
    """Raises when the folder lies on a network file system; knows Linux mounts and Windows share paths.

    Raises:
        UnsupportedFilesystemError: It does.
    """
    kind = _share(folder) or _mount_type(folder.resolve(), mounts)
    if kind in _NETWORK:
        raise UnsupportedFilesystemError(
            f"{folder} lies on a network file system ({kind}); several machines writing there would damage "
            f"the memory. Use a folder on a local disk"
        )


def _share(folder: Path) -> str:
    return "smbfs" if sys.platform == "win32" and str(folder.resolve()).startswith("\\\\") else ""


def _mount_type(folder: Path, mounts: Path) -> str:
    if not mounts.exists():
        return ""
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, point, found = line.split(" ")[:3]
        point = point.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind
