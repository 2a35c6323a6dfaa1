"""``python -m rlkit`` is the `rlkit` command."""

from rlkit.cli import main

if __name__ == "__main__":
    main()
