"""A trained policy as one file that runs without rlkit: `rlkit.export`.

The file takes observations in the environment's own units and dtypes, N at a time, and gives the
greedy actions in its own: whatever lies between (a start other than 0, the normalisation of
observations, the scale of a Box) is inside. What goes in and comes out is told in the file's
metadata (`rlkit.training.greedy`). Each file is run beside the policy before it is written.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

import rlkit
from rlkit.envs.vector import Envs
from rlkit.errors import RunError, UsageError
from rlkit.packing import VOCABULARY, has_text
from rlkit.registry import unknown
from rlkit.run.files import write_atomically
from rlkit.run.folder import RunFolder
from rlkit.training.api import restored
from rlkit.training.build import EnvLike
from rlkit.training.export_check import Comparison, Runner, compare
from rlkit.training.greedy import CARRY, MASK, NEXT, Greedy, Port
from rlkit.training.policy import Policy

METADATA = "rlkit.json"  # in a torch.export file, the extra file that holds the metadata
EXTRA = ("onnx", "onnxscript", "onnxruntime")
PLAYERS = 2  # environments that the file is tried on


@dataclass(frozen=True)
class Format:
    """A kind of file: its suffix, what writes it, and what runs it again."""

    suffix: str
    write: Callable[[ExportedProgram, Greedy, dict[str, str]], bytes]
    load: Callable[[bytes, Greedy], Runner]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """What was written, what goes in and comes out, and how it compared with the policy."""

    path: Path
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    comparison: Comparison


def export(
    run: str | Path,
    path: str | Path | None = None,
    format: str = "onnx",
    best: bool = False,
    env: EnvLike | None = None,
    force: bool = False,
) -> Path:
    """Write a run's policy to a file that runs without rlkit; where it was written.

    Args:
        run: a run folder, or its name in runs/.
        path: of the file; by default policy.onnx or policy.pt2 in the run folder.
        format: "onnx", or "torch-export" (for `torch.export.load`, and for PyTorch's compilers).
        best: the checkpoint that evaluated best, instead of the newest.
        env: as for `rlkit.load`.
        force: replace a file that is there.

    Raises UsageError before anything is made, and RunError, leaving no file, where the file's
    actions are not the policy's.
    """
    return export_checked(run, path, format, best, env, force).path


def export_checked(
    run: str | Path,
    path: str | Path | None = None,
    format: str = "onnx",
    best: bool = False,
    env: EnvLike | None = None,
    force: bool = False,
) -> Exported:
    """`export`, and what it found."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    kind = FORMATS[format]
    _require(format, kind.needs)
    folder = RunFolder.open(run)
    target = folder.path / f"policy{kind.suffix}" if path is None else Path(path)
    _check_target(target, force)
    n = env.num_envs if isinstance(env, VectorEnv) else PLAYERS
    with restored(folder, n, best, "cpu", env) as (agent, envs):
        envs.reset(0)
        declared = envs.obs_port.declared_space
        greedy = Greedy(agent, declared, envs.action_port, masked=envs.mask is not None)
        data = kind.write(_captured(greedy), greedy, _metadata(folder, best, envs, greedy))
        policy = Policy(agent, envs.id, envs.obs_port, envs.action_port)
        comparison = compare(_runner(format, data, greedy), greedy, policy, envs)
    if not comparison.passed:
        raise RunError(
            f"the {format} file does not do what the policy does ({comparison}), and was not "
            f"written; try format (--format) {next(x for x in FORMATS if x != format)}, or other "
            f"versions of {', '.join(kind.needs) or 'torch'}"
        )
    try:
        write_atomically(target, data)
    except OSError as error:
        raise UsageError(f"{target} can't be written: {error.strerror}") from None
    return Exported(target, greedy.inputs, greedy.outputs, comparison)


def _runner(format: str, data: bytes, greedy: Greedy) -> Runner:
    """What runs the file; RunError where it doesn't."""

    def failed(error: Exception) -> RunError:
        return RunError(f"the {format} file, which was not written, does not run: {_line(error)}")

    try:
        with _quiet():
            run = FORMATS[format].load(data, greedy)
    except Exception as error:
        raise failed(error) from error

    def guarded(inputs: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        try:
            return run(inputs)
        except Exception as error:
            raise failed(error) from error

    return guarded


def _require(format: str, packages: Sequence[str]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"format {format} needs {', '.join(missing)}, not installed here: "
            "pip install 'rlkit-toolkit[export]'; torch-export needs nothing more"
        )


def _check_target(path: Path, force: bool) -> None:
    """Say before the work what could not be written after it."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file (--output)")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; name another file (--output), or replace it (--force)")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(
            f"{path} can't be written: {path.parent} is no folder that may be written to; name a "
            "file in one that is (--output)"
        )


def _captured(greedy: Greedy) -> ExportedProgram:
    """The module's graph, for any number of rows."""
    # Two rows: of one, torch would take for granted that there is always one.
    example = tuple(torch.from_numpy(port.zeros(2)) for port in greedy.inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(greedy, example, dynamic_shapes=_any_number(greedy))
    except Exception as error:
        raise RunError(f"torch.export can't capture this policy: {_line(error)}") from error
    for name, x in program.constants.items():
        if isinstance(x, torch.Tensor):
            # Parameters lie side by side in one storage, which would go along with each of them.
            program.constants[name] = x.detach().clone()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return program


def _any_number(greedy: Greedy) -> Any:
    """The inputs' dynamic shapes: N rows each."""
    n = Dim("N", min=1)
    return (tuple({0: n} for _ in greedy.inputs),)


def _metadata(folder: RunFolder, best: bool, envs: Envs, greedy: Greedy) -> dict[str, str]:
    """What the file says of itself; JSON where there is more than a word."""
    config = folder.config
    return {
        "rlkit": rlkit.__version__,
        "run": folder.path.name,
        "checkpoint": "best" if best else "newest",
        "agent": str(config["agent"]),
        "env": envs.id,
        "env_options": json.dumps(config["env_options"]),
        "observation_space": str(envs.obs_port.declared_space),
        "action_space": str(greedy.action_space),
        "inputs": json.dumps([port.to_json() for port in greedy.inputs]),
        "outputs": json.dumps([port.to_json() for port in greedy.outputs]),
        "usage": " ".join(_usage(envs, greedy)),
    }


def _usage(envs: Envs, greedy: Greedy) -> Iterator[str]:
    """How to feed the file, one sentence after the other."""
    yield (
        "Inputs and outputs have a row for each of N environments, N >= 1; observations and "
        "actions are in the environment's own units."
    )
    if envs.frame_stack > 1:
        yield f"An observation is the last {envs.frame_stack} frames, along its first axis."
    if has_text(envs.obs_port.declared_space):
        yield (
            r"A text is given as the numbers of its words, 0 after the last: the words are "
            r"re.findall(r'\w+|[^\w\s]', text.lower()) in Python, as many as the input is long, "
            f"and a word's number is zlib.crc32(word.encode()) % {VOCABULARY - 1} + 1."
        )
    if greedy.masked:
        yield (
            f"{MASK}[i, a] says whether environment i allows action a (of several choices, one "
            "after the other); give true for all of them where nothing is known."
        )
    if any(port.what == CARRY for port in greedy.inputs):
        yield (
            f"{CARRY}.* is the memory: give zeros (false) in the rows of environments that begin "
            f"an episode, and elsewhere what {NEXT}{CARRY}.* of the step before gave."
        )


def _onnx_bytes(program: ExportedProgram, greedy: Greedy, metadata: dict[str, str]) -> bytes:
    with _quiet():
        made = torch.onnx.export(
            program,
            (),
            input_names=[port.name for port in greedy.inputs],
            output_names=[port.name for port in greedy.outputs],
            dynamic_shapes=_any_number(greedy),
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    model = made.model
    for part in (model.graph, *model.graph):
        part.metadata_props.clear()  # the exporter's own notes
    model.metadata_props.update(metadata)
    data: bytes = made.model_proto.SerializeToString()
    return data


def _onnx_runner(data: bytes, greedy: Greedy) -> Runner:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # its threads spin while they wait
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in greedy.inputs]

    def run(inputs: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        found: Sequence[NDArray[Any]] = session.run(None, dict(zip(names, inputs, strict=True)))
        return found

    return run


def _torch_bytes(program: ExportedProgram, greedy: Greedy, metadata: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
    return file.getvalue()


def _torch_runner(data: bytes, greedy: Greedy) -> Runner:
    module = torch.export.load(io.BytesIO(data)).module()

    def run(inputs: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return [x.numpy() for x in module(*map(torch.from_numpy, inputs))]

    return run


FORMATS = {
    "onnx": Format(".onnx", _onnx_bytes, _onnx_runner, EXTRA),
    "torch-export": Format(".pt2", _torch_bytes, _torch_runner),
}


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of themselves; what comes out is held against the policy."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
