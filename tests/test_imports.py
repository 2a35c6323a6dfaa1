"""Which way the doors open: the import direction, and what must start without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up: a module may import from its own layer and from those below it.
LAYERS = [
    ["rlkit", "rlkit.errors", "rlkit.registry", "rlkit.system", "rlkit.experience.step"],
    ["rlkit.packing", "rlkit.carry"],
    ["rlkit.peers", "rlkit.ranks", "rlkit.distributed", "rlkit.device"],
    ["rlkit.returns", "rlkit.losses", "rlkit.optim", "rlkit.mdp"],
    ["rlkit.networks", "rlkit.experience"],
    [
        *("rlkit.agent", "rlkit.actor_critic", "rlkit.recipe", "rlkit.exploration"),
        *("rlkit.tables", "rlkit.control", "rlkit.population", "rlkit.footprint"),
    ],
    ["rlkit.agents", "rlkit.envs", "rlkit.run"],
    ["rlkit.training"],
    ["rlkit.many", "rlkit.comparison"],
    ["rlkit.cli", "rlkit.__main__"],
]
# Neighbours on one layer that may not see each other.
STRANGERS = {
    "rlkit.agents": ("rlkit.envs", "rlkit.run"),
    "rlkit.envs": ("rlkit.agents", "rlkit.run", "rlkit.networks", "rlkit.agent"),
    "rlkit.run": ("rlkit.agents", "rlkit.envs"),
}
FOLDERS = {"rlkit": "rlkit", "agents": "rlkit.agents", "envs": "rlkit.envs"}
# What lives on a device is made of torch, and imported by nothing before it is asked for.
ON_DEVICES = ("rlkit.envs.device", "rlkit.mdp.device")


def modules() -> dict[str, Path]:
    """Every module of the package, by the name it is imported under."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder)
            if folder == "rlkit" and inside.parts[0] in ("agents", "envs"):
                continue  # the symlinks
            parts = [package, *inside.with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """The rlkit modules and other packages that a file imports, type-checking blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(child for part in node.body for child in ast.walk(part))
        if top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            skipped.update(ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int:
    """The layer of a module, by the longest prefix that is listed."""
    listed = {name: i for i, names in enumerate(LAYERS) for name in names}
    while module not in listed:
        module = module.rpartition(".")[0]
    return listed[module]


def test_every_module_imports_only_from_its_layer_or_below():
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if name != "rlkit"  # its lazy table names them all
        for target in imports(path)
        if target.split(".")[0] == "rlkit" and target != "rlkit" and layer(target) > layer(name)
    ]
    assert not wrong


def test_neighbours_that_may_not_know_each_other_do_not():
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for package, forbidden in STRANGERS.items()
        if name == package or name.startswith(f"{package}.")
        for target in imports(path)
        if target.startswith(forbidden)
    ]
    assert not wrong


def test_one_agent_does_not_import_another():
    """But for Rainbow, which is DQN with other defaults and no code of its own, and for agents that
    have another's hyperparameters."""
    found = {
        f"{name} imports {'.'.join(target.split('.')[:3])}"
        for name, path in modules().items()
        if name.startswith("rlkit.agents.")
        for target in imports(path)
        if target.startswith("rlkit.agents.")
    }
    of_recipes = {"rainbow": "dqn"} | dict.fromkeys(
        ("double_q_learning", "expected_sarsa", "sarsa"), "q_learning"
    )
    assert found == {
        f"rlkit.agents.{one} imports rlkit.agents.{other}" for one, other in of_recipes.items()
    }


@pytest.mark.parametrize("package", ["rlkit.envs", "rlkit.mdp"])
def test_environments_and_models_import_no_torch_at_module_level(package):
    wrong = [
        name
        for name, path in modules().items()
        if name.startswith(package)
        and not name.startswith(ON_DEVICES)
        and any(t.split(".")[0] == "torch" for t in imports(path, top_level_only=True))
    ]
    assert not wrong


def test_what_lives_on_devices_is_imported_when_it_is_asked_for():
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if not name.startswith(ON_DEVICES)
        for target in imports(path, top_level_only=True)
        if target.startswith(ON_DEVICES)
    ]
    assert not wrong


def modules_after(code: str) -> set[str]:
    """The top-level names in sys.modules after running `code` in a fresh interpreter."""
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {name.split(".")[0] for name in out.splitlines()[-1].split()}


NO_TORCH = {
    "import": "import rlkit; rlkit.MDP, rlkit.solve",
    "help": "from rlkit.cli import cli; cli.main(['--help'], standalone_mode=False)",
    "train help": (
        "from rlkit.cli import cli; cli.main(['train', 'a2c', '--help'], standalone_mode=False)"
    ),
    "solve": "from rlkit.cli import cli; cli.main(['solve', 'gridworld'], standalone_mode=False)",
    "list": "from rlkit.cli import cli; cli.main(['list', 'envs'], standalone_mode=False)",
    "environments": "import rlkit.envs.make, rlkit.envs.gridworld",
}


@pytest.mark.parametrize("code", NO_TORCH.values(), ids=NO_TORCH)
def test_what_needs_no_torch_does_not_import_it(code):
    assert "torch" not in modules_after(code)


def test_the_help_loads_nothing_heavy():
    loaded = modules_after(NO_TORCH["help"])
    assert not loaded & {"torch", "numpy", "scipy", "numba", "gymnasium", "tensorboard"}
