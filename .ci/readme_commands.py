"""Print the N-th set-up command of README.md as it stands there: its N-th ```sh block."""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def commands() -> list[str]:
    """The first two shell blocks of the README."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    return [block.strip() for block in blocks[:2]]


if __name__ == "__main__":
    print(commands()[int(sys.argv[1]) - 1])
