"""The packaging: what setup.cfg lists is what lies on disk, and the README's commands are CI's."""

import configparser
import runpy
import subprocess
from pathlib import Path

import rlkit

ROOT = Path(__file__).resolve().parent.parent


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_every_folder_with_code_is_a_listed_package():
    listed = set(setup_cfg()["options"]["packages"].split())
    folders = set()
    for folder, package in (("rlkit", ()), ("agents", ("rlkit",)), ("envs", ("rlkit",))):
        for path in (ROOT / folder).rglob("__init__.py"):
            inside = path.parent.relative_to(ROOT).parts
            if inside[:2] not in (("rlkit", "agents"), ("rlkit", "envs")):  # the symlinks
                folders.add(".".join((*package, *inside)))
    assert listed == folders


def test_code_lies_in_packages_only():
    homes = {
        path.parent
        for folder in ("rlkit", "agents", "envs")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert all((home / "__init__.py").exists() for home in homes)


def test_the_symlinks_are_relative_and_lead_to_the_top_level_folders():
    for name in ("agents", "envs"):
        link = ROOT / "rlkit" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


def test_version_stands_in_one_place():
    assert setup_cfg()["metadata"]["version"] == "attr: rlkit.__version__"
    assert f"## {rlkit.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_public_name_can_be_imported():
    for name in rlkit.__all__:
        assert getattr(rlkit, name) is not None


def test_the_readme_sets_up_with_two_commands_and_ci_runs_those():
    commands = runpy.run_path(str(ROOT / ".ci" / "readme_commands.py"))["commands"]()
    first, second = commands
    assert first.startswith("python3 -m venv ")
    assert "rlkit train a2c CartPole" in first
    assert "[test]" in second
    assert second.endswith("pytest -n 2")
    for command in commands:
        assert "-c constraints.txt" in command
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'bash -euo pipefail -c "$(readme 1)"' in ci
    assert 'bash -euo pipefail -c "$(readme 2)"' in ci


def test_pip_is_always_given_the_constraints():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    wrong = [
        f"{name}: {line.strip()}"
        for name in files
        if name.endswith((".md", ".sh", ".yml", "run")) and (ROOT / name).is_file()
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if "pip install" in line and "-c constraints.txt" not in line and "`" not in line
    ]
    assert not wrong
