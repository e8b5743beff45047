"""Of which sources a library was built; a library that an earlier build has left is told by it.

``setup.py`` runs this file by itself: it imports nothing of torch.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

MARK = b"gradtx_cuda was built from sources "
_SIZE = 32  # hexadecimal digits
_KINDS = (".cpp", ".cu", ".h")


def digest(folder: Path) -> str:
    """What stands for the sources in a folder, their names and all they hold; "" for none."""
    paths = (x for x in folder.rglob("*") if x.suffix in _KINDS)
    names = {x.relative_to(folder).as_posix(): x for x in paths}
    found = hashlib.sha256()
    for name in sorted(names):
        content = names[name].read_bytes().replace(b"\r\n", b"\n")
        found.update(b"%s %d\n" % (name.encode(), len(content)))
        found.update(content)
    return found.hexdigest()[:_SIZE] if names else ""


def stamp(folder: Path) -> str:
    """C++ that leaves a mark in the library which is built of a folder."""
    text = f'"{MARK.decode()}{digest(folder)}"'
    return f"""extern "C" {{
extern __attribute__((visibility("default"))) const char gradtx_sources[];
const char gradtx_sources[] = {text};
}}
"""


def built_from(library: Path) -> str:
    """The digest of the sources that a library was built from; "" where it does not say so."""
    with library.open("rb") as file:
        if not library.stat().st_size:
            return ""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(MARK)
            start = at + len(MARK)
            return "" if at < 0 else content[start : start + _SIZE].decode("ascii", "replace")
