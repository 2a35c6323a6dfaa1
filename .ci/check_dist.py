"""Compare what an sdist and a wheel hold with what git tracks; exit 1 with the difference."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ON_DISK = {"rlkit.agents": "agents", "rlkit.envs": "envs"}  # package_dir in setup.cfg
NOT_SHIPPED = (".ci/", ".gitignore")


def tracked() -> set[str]:
    """Files that git tracks, without the two symlinks and what is not shipped."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    return {n for n in names if not (ROOT / n).is_symlink() and not n.startswith(NOT_SHIPPED)}


def as_imported(name: str) -> str | None:
    """Where a tracked file of the package lies in a wheel; None for the others."""
    top = name.split("/", 1)[0]
    for package, folder in ON_DISK.items():
        if top == folder:
            return package.replace(".", "/") + name[len(folder) :]
    return name if top == "rlkit" else None


def difference(kind: str, found: set[str], wanted: set[str]) -> list[str]:
    return [f"{kind} lacks {name}" for name in sorted(wanted - found)] + [
        f"{kind} has {name} besides" for name in sorted(found - wanted)
    ]


def main(folder: Path) -> int:
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        members = [m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()]
    made = ("PKG-INFO", "rlkit_toolkit.egg-info/")
    in_sdist = {name for name in members if not name.startswith(made)}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = tracked()
    problems = difference("the sdist", in_sdist, files)
    problems += difference("the wheel", in_wheel, {n for n in map(as_imported, files) if n})
    print("\n".join(problems) or f"sdist and wheel hold the tree: {len(in_wheel)} modules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
