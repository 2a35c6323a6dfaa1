"""What a run measures, read back with TensorBoard's own readers and as JSON lines."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import (
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.plugins.text.metadata import PLUGIN_NAME
from tensorboard.util import tensor_util

from rlkit.errors import UsageError
from rlkit.run.metrics import Metrics, cut_metrics, read_metrics, read_tail


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The (step, value) points that TensorBoard shows for `tag`."""
    events = EventAccumulator(str(folder), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    events.Reload()
    if tag in events.Tags()["scalars"]:
        return [(event.step, event.value) for event in events.Scalars(tag)]
    return []


def test_scalars_reach_tensorboard_and_the_json_lines(tmp_path: Path) -> None:
    values = {"loss/value": 0.25, "fps": np.float32(1000.0), "entropy": torch.tensor(0.5)}
    with Metrics(tmp_path) as metrics:
        metrics.scalars(8, values)
        metrics.scalars(16, {"loss/value": 0.125})
    assert curve(tmp_path, "loss/value") == [(8, 0.25), (16, 0.125)]
    assert curve(tmp_path, "fps") == [(8, 1000.0)]
    assert curve(tmp_path, "entropy") == [(8, 0.5)]
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first.pop("time") <= second.pop("time")
    assert first == {"step": 8, "loss/value": 0.25, "fps": 1000.0, "entropy": 0.5}
    assert second == {"step": 16, "loss/value": 0.125}


def test_every_episode_is_recorded(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        for i in range(3000):
            metrics.episode(i // 2, float(i), i + 1)
    assert curve(tmp_path, "episode/return") == [(i // 2, float(i)) for i in range(3000)]
    assert curve(tmp_path, "episode/length") == [(i // 2, i + 1.0) for i in range(3000)]
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [line["episode/return"] for line in lines] == list(range(3000))


def test_numbers_that_are_not_finite_are_strict_json(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.scalars(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    record = json.loads(text, parse_constant=pytest.fail)
    assert (record["a"], record["b"], record["c"], record["d"]) == (None, None, None, 1.0)
    assert math.isnan(curve(tmp_path, "a")[0][1])
    assert curve(tmp_path, "b") == [(1, math.inf)]


def test_a_text_reaches_the_text_plugin(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.text("config", "| lr | 0.1 |\n|γ|0.99|")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.PluginTagToContent(PLUGIN_NAME)) == {"config"}
    [event] = events.Tensors("config")
    [text] = tensor_util.make_ndarray(event.tensor_proto).flatten()
    assert text.decode() == "| lr | 0.1 |\n|γ|0.99|"


def session_groups(run_dir: Path) -> Any:
    """The rows of TensorBoard's HPARAMS tab, from the plugin's own request handler."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(run_dir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(run_dir))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request_context = RequestContext()
    metadata = context.hparams_metadata(request_context, "")
    experiment = context.experiment_from_metadata(
        request_context,
        "",
        include_metrics=True,
        hparams_run_to_tag_to_content=metadata,
        data_provider_hparams=[],
    )
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS],
        start_index=0,
        slice_size=10,
        include_metrics=True,
    )
    handler = list_session_groups.Handler(
        request_context=request_context,
        backend_context=context,
        experiment_id="",
        request=request,
    )
    return experiment, handler.run().session_groups


def test_the_hparams_tab_shows_the_run_with_its_results(tmp_path: Path) -> None:
    configs = [
        {"lr": 0.5, "env": "CartPole-v1", "normalize": True, "seed": 3, "hidden": [64, 64]},
        {"lr": 0.25, "env": "CartPole-v1", "normalize": False, "seed": 4, "hidden": None},
    ]
    for number, config in enumerate(configs):
        (tmp_path / f"a2c-{number}").mkdir()
        with Metrics(tmp_path / f"a2c-{number}") as metrics:
            metrics.hparams(config, ["eval/mean_reward"])
            metrics.scalars(500, {"eval/mean_reward": 1.0})
            metrics.scalars(1000, {"eval/mean_reward": 100.0 + number})
    experiment, groups = session_groups(tmp_path)
    assert {info.name.tag for info in experiment.metric_infos} == {"eval/mean_reward"}
    rows = {group.sessions[0].name: group for group in groups}
    assert set(rows) == {"a2c-0", "a2c-1"}
    shown = rows["a2c-0"].hparams
    assert shown["lr"].number_value == 0.5
    assert shown["env"].string_value == "CartPole-v1"
    assert shown["normalize"].bool_value is True
    assert shown["hidden"].string_value == "[64, 64]"
    for number in range(2):
        [metric] = rows[f"a2c-{number}"].sessions[0].metric_values
        assert (metric.name.tag, metric.value) == ("eval/mean_reward", 100.0 + number)
        assert metric.training_step == 1000


def test_resuming_drops_what_went_beyond_and_goes_on_without_a_fold(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.text("config", "x")
        for step in range(0, 100, 10):
            metrics.scalars(step, {"loss": step})
    with Metrics(tmp_path, resume_step=50) as metrics:
        for step in range(60, 80, 10):
            metrics.scalars(step, {"loss": -step})
    with Metrics(tmp_path, resume_step=60) as metrics:
        metrics.scalars(65, {"loss": 7})
    expected = [*((step, step) for step in range(0, 60, 10)), (60, -60), (65, 7)]
    assert curve(tmp_path, "loss") == expected
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == expected
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"events.out.tfevents.000{i}" for i in range(3)] + ["metrics.jsonl"]


def test_many_resumptions_stay_in_order(tmp_path: Path) -> None:
    for step in range(12):
        with Metrics(tmp_path, resume_step=step) as metrics:
            metrics.scalars(step + 1, {"x": step})
            metrics.scalars(step + 2, {"x": -1})
    assert curve(tmp_path, "x") == [*((step + 1, step) for step in range(12)), (13, -1)]


def test_a_half_written_last_line_is_left_out_and_goes_on_resuming(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.scalars(1, {"x": 1})
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 2, "ti')
    assert [line["x"] for line in read_metrics(path)] == [1]
    with Metrics(tmp_path, resume_step=5) as metrics:
        metrics.scalars(6, {"x": 6})
    assert [line["x"] for line in read_metrics(path)] == [1, 6]


def test_another_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(UsageError, match=r"metrics\.jsonl:2: not a line of metrics"):
        list(read_metrics(path))
    cut_metrics(path, 10)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_the_tail_of_a_long_file_is_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i, "x": "y" * 100}) + "\n" for i in range(5000)))
    steps = [line["step"] for line in read_tail(path)]
    assert steps == list(range(5000 - len(steps), 5000))
    assert 400 < len(steps) < 1000


def child(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_kill_loses_no_line(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from rlkit.run.metrics import Metrics
        metrics = Metrics(sys.argv[1])
        for step in range(100):
            metrics.scalars(step, {"x": step})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert child(script, tmp_path).returncode == -9
    assert [line["x"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(100))


def test_a_full_disk_stops_no_training(tmp_path: Path) -> None:
    # a limit on the size of files stands in for the full disk
    script = """
        import resource, sys, warnings
        from rlkit.errors import RlkitWarning
        from rlkit.run.metrics import Metrics
        metrics = Metrics(sys.argv[1])
        metrics.scalars(0, {"x": 0})
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(1, 3000):
                metrics.scalars(step, {"x": step})
            metrics.close()
        print([(item.category is RlkitWarning, str(item.message)) for item in caught])
    """
    done = child(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("measurements are lost") == 1
    assert "(True" in done.stdout
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(len(steps)))
    assert len(steps) > 20
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")


def test_importing_metrics_imports_nothing_heavy() -> None:
    script = """
        import sys, rlkit.run.metrics
        print({"torch", "tensorboard", "numpy", "google.protobuf"} & set(sys.modules))
    """
    assert child(script).stdout.strip() == "set()"


def test_writing_metrics_needs_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    script = """
        import sys
        from rlkit.run.metrics import Metrics
        with Metrics(sys.argv[1]) as metrics:
            metrics.episode(1, 2.0, 3)
            metrics.text("a", "b")
            metrics.hparams({"lr": 1}, ["x"])
        print({"torch", "tensorflow"} & set(sys.modules))
    """
    assert child(script, tmp_path).stdout.strip() == "set()"
