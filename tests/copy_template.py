"""Copy the template without what git ignores: python tests/copy_template.py FOLDER

Cookiecutter copies everything that lies in a template folder, also the caches and runs of whoever works on it.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def known_files() -> Iterator[Path]:
    """Yield the template's files relative to its root: what git knows or would add, or all of a downloaded archive."""
    if not (ROOT / ".git").exists():
        yield from (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_symlink() or path.is_file())
        return
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():  # the index may name what has been deleted
            yield Path(name)


def copy_template(target: Path) -> None:
    """Copy the files to a new folder."""
    for name in known_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


if __name__ == "__main__":
    copy_template(Path(sys.argv[1]))
