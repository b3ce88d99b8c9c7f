"""What training keeps on disk: checkpoints that are whole, curves as JSON; and modules without circles."""

from __future__ import annotations

import ast
import json
import math
import shutil
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import mllm_plugin.training
from mllm_plugin import InvalidInputError, MLLMError
from mllm_plugin.training.checkpoints import Checkpoint, State
from mllm_plugin.training.curves import Panel, draw, write_curves
from tests.helpers.damage_tools import damages


def begun(folder: Path | None) -> Checkpoint:
    module = torch.nn.Linear(3, 2)
    return Checkpoint(folder, module, torch.optim.AdamW(module.parameters(), lr=0.1))


def trained(folder: Path) -> tuple[Checkpoint, State]:
    """A run of two steps, of which the first was better."""
    run, state = begun(folder), State()
    for step, loss in enumerate((0.5, 0.75), 1):
        run.module(torch.ones(1, 3)).square().sum().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        state.step = step
        state.measured(loss, run.module)
        run.rows.append({"step": step, "loss": loss if step > 1 else math.nan})
    run.save(state)
    return run, state


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_state_is_what_it_was(tmp_path):
    run, state = trained(tmp_path)
    again = begun(tmp_path)
    found = again.load()
    assert (found.step, found.stale, found.least) == (2, 1, 0.5)
    assert same(found.best or {}, state.best or {})
    assert not same(found.best or {}, dict(run.module.state_dict()))
    assert same(dict(again.module.state_dict()), dict(run.module.state_dict()))
    before, after = (one.optimizer.state_dict()["state"] for one in (run, again))
    assert before.keys() == after.keys()
    assert all(same(before[place], after[place]) for place in before)
    assert math.isnan(again.rows[0]["loss"])
    assert again.rows[1] == run.rows[1]


def test_without_a_folder_or_a_state_a_run_begins_anew(tmp_path):
    for folder in (None, tmp_path / "nowhere"):
        run = begun(folder)
        assert run.load() == State()
    begun(None).save(State())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("saved")
    trained(folder)
    run = begun(folder)
    run.load()
    return folder, dict(run.module.state_dict())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages)
def test_a_damaged_checkpoint_is_refused_or_is_the_same(saved, tmp_path_factory, damage):
    folder, expected = saved
    copy = tmp_path_factory.mktemp("damaged") / "copy"
    shutil.copytree(folder, copy)
    damage(copy, "state")
    run = begun(copy)
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    try:
        state = run.load()
    except MLLMError:
        assert same(dict(run.module.state_dict()), before)  # nothing of it was taken over
        return
    assert same(dict(run.module.state_dict()), expected if state.best is not None else before)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    trained(tmp_path)
    module = torch.nn.Linear(3, 4)
    other = Checkpoint(tmp_path, module, torch.optim.AdamW(module.parameters()))
    with pytest.raises(
        InvalidInputError, match=r"tensor '\w+.bias' has shape \[2\], expected \[4\].*begin anew"
    ):
        other.load()


def test_curves_are_json_and_a_picture(tmp_path):
    rows = [{"step": 0, "loss": math.nan}, {"step": 1, "loss": 0.5}]
    points = [(row["step"], row["loss"]) for row in rows]
    panels = [Panel("loss", "step", {"training": points}), Panel("share", "%", {"all": points}, most=15)]
    write_curves({"history": rows, "points": ((0.5, math.inf),)}, panels, tmp_path)
    found = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert found == {"history": [{"step": 0, "loss": None}, rows[1]], "points": [[0.5, None]]}
    assert draw(panels, tmp_path / "again.png") is True
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_no_module_of_training_imports_itself_by_another():
    root = Path(mllm_plugin.training.__file__).parent
    package = "mllm_plugin.training."
    graph: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        name = package + ".".join(path.relative_to(root).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mllm_plugin.training"):
                names = {f"{node.module}.{one.name}" for one in node.names} | {node.module or ""}
                graph.setdefault(name, set()).update(names - {name})
    assert len(graph) > 15
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError where there is a circle
