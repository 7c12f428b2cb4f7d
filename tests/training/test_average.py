"""Averaged weights: the recurrence by hand, what is deployed, and a restart that changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_runs import config, digits, numbers, same, small, weights
from torch import nn

from sonet.attacks import predict
from sonet.training import CheckpointError, TrainConfig, fit, load_checkpoint, load_model
from sonet.training.average import Average


def rate(decay: float, n: int) -> float:
    return min(decay, (1 + n) / (10 + n))


def test_the_recurrence_by_hand() -> None:
    model = nn.BatchNorm1d(2).double()
    average = Average(model, 0.4, torch.device("cpu"))
    expected: dict[str, float] = {}
    for n, value in enumerate((1.0, 3.0, -2.0, 7.0, 0.5, 4.0, 9.0, -1.0)):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.fill_(value)
        average.update(model)
        d = 0.0 if n == 0 else rate(0.4, n)
        expected["float"] = d * expected.get("float", 0.0) + (1 - d) * value
        expected["counter"] = int(value)
    kept = average.model.state_dict()
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert kept[name].tolist() == pytest.approx([expected["float"]] * 2), name
    assert kept["num_batches_tracked"].item() == expected["counter"]
    assert rate(0.4, 4) < 0.4 == rate(0.4, 8)  # both sides of the minimum were met
    assert average.steps.item() == 8


def trained(run: Path | None = None, stop_in: int | None = None, name: str = "resnet10", **changes: Any) -> Any:
    class Stop(Exception):
        pass

    learned: list[dict[str, Any]] = []
    model = small(name)

    def tell(report: Any) -> None:
        learned.append(weights(model))
        if report.epoch + 1 == stop_in:
            raise Stop

    setting = config(**({"epochs": 3, "average": 0.9, "augment": "crop-flip"} | changes))
    try:
        history = fit(model, digits().train.take(60), setting, test=digits().test.take(50), run=run, progress=tell)
    except Stop:
        return model, None, learned
    return model, history, learned


def test_deployed_is_the_average_of_the_weights_after_each_step() -> None:
    model, history, learned = trained(average=0.3)
    assert len(learned) == 9
    for name, value in weights(model).items():
        kept = learned[0][name].double()
        for n, step in enumerate(learned[1:], start=1):
            kept = rate(0.3, n) * kept + (1 - rate(0.3, n)) * step[name].double()
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), kept, rtol=1e-5, atol=1e-6)
        else:
            assert value == learned[-1][name]
    assert not same(weights(model), learned[-1])
    test = digits().test.take(50)
    judged = (predict(model, test.images, 20) == test.labels).float().mean()
    assert history[-1].test_accuracy == pytest.approx(float(judged))


def test_averaging_leaves_what_is_trained_alone() -> None:
    assert same(trained(average=None)[2][-1], trained()[2][-1])


def test_the_checkpoint_holds_what_is_deployed_and_what_is_trained(tmp_path: Path) -> None:
    model, _, learned = trained(tmp_path)
    assert same(weights(load_model(tmp_path)), weights(model))
    state = load_checkpoint(tmp_path).state
    assert same({name[8:]: tensor for name, tensor in state.items() if name.startswith("learned:")}, learned[-1])
    assert state["average:steps"].item() == 9


@pytest.mark.parametrize("name", ["resnet10", "sonet"])
@pytest.mark.parametrize("stop_in", [2, 3])
def test_interrupted_and_resumed_is_the_same_as_straight_through(tmp_path: Path, stop_in: int, name: str) -> None:
    straight, whole, _ = trained(tmp_path / "straight", name=name)
    trained(tmp_path / "cut", stop_in=stop_in, name=name)
    resumed, history, _ = trained(tmp_path / "cut", name=name)
    assert same(weights(resumed), weights(straight))
    assert numbers(history) == numbers(whole)
    one, other = (load_checkpoint(tmp_path / run) for run in ("cut", "straight"))
    assert same(one.state, other.state)
    assert same(one.momentum, other.momentum)


def test_without_an_average_there_is_no_third_file(tmp_path: Path) -> None:
    trained(tmp_path, average=None)
    assert sorted(file.name for file in (tmp_path / "epoch-0003").iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "optimizer.safetensors",
    ]
    assert load_checkpoint(tmp_path).state == {}


def test_a_checkpoint_from_before_these_settings_is_read_and_continued(tmp_path: Path) -> None:
    straight, whole, _ = trained(average=None)
    trained(tmp_path, average=None, stop_in=3)
    file = tmp_path / "epoch-0002" / "checkpoint.json"
    content = json.loads(file.read_text())
    for name in ("alignment", "watched", "collapse", "accumulate", "average", "kinetic", "nfe_budget"):
        del content["training"][name]
    early = {"epoch", "loss", "train_accuracy", "test_accuracy", "evaluations", "learning_rate", "seconds"}
    content["history"] = [{key: epoch[key] for key in early} for epoch in content["history"]]
    file.write_text(json.dumps(content))
    (tmp_path / "log.csv").unlink()
    load_model(tmp_path)
    resumed, history, _ = trained(tmp_path, average=None)
    assert same(weights(resumed), weights(straight))
    assert numbers(history) == numbers(whole)


@pytest.mark.parametrize("damage", ["cut", "missing", "unsigned"])
def test_damaged_state_is_an_error_and_nothing_is_overwritten(tmp_path: Path, damage: str) -> None:
    trained(tmp_path, stop_in=3)
    file = tmp_path / "epoch-0002" / "state.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    else:
        file.unlink()
    if damage == "unsigned":
        description = file.parent / "checkpoint.json"
        content = json.loads(description.read_text())
        del content["files"]["state.safetensors"]
        description.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="cannot go on" if damage == "unsigned" else "SHA-256"):
        trained(tmp_path)
    assert [folder.name for folder in tmp_path.glob("epoch-*")] == ["epoch-0002"]


def test_the_average_is_judged_in_float32_where_training_is_not(tmp_path: Path) -> None:
    model, history, _ = trained(tmp_path, precision="bf16")
    test = digits().test.take(50)
    with torch.no_grad():
        assert torch.equal(model(test.images), load_model(tmp_path)(test.images))
    judged = (predict(model, test.images, 20) == test.labels).float().mean()
    assert history[-1].test_accuracy == pytest.approx(float(judged))


@pytest.mark.parametrize("objective", ["natural", "fast"])
def test_without_average_too_the_network_is_judged_as_it_is_deployed(
    tmp_path: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is learned from is in bfloat16 before and after."""
    judged, learned = set[torch.dtype](), list[torch.dtype]()
    attack: dict[str, Any] = (
        {} if objective == "natural" else {"objective": "fast", "threat": "linf:0.1", "watched": 10}
    )
    setting = config(precision="bf16", epochs=2, **attack)
    model, test = small(), digits().test.take(50)
    model.register_forward_hook(
        lambda module, inputs, output: (
            learned.append(torch.get_autocast_dtype("cpu"))
            if torch.is_autocast_enabled("cpu")
            else judged.add(output.dtype)
        )
    )
    history = fit(model, digits().train.take(40), setting, test=test, run=tmp_path)
    assert learned  # in autocast
    assert judged == {torch.float32}
    right = (predict(model, test.images, setting.batch_size) == test.labels).float().mean()
    assert history[-1].test_accuracy == float(right)
    assert not {"forward", "_original_forward"} & vars(model).keys()


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 2.0])
def test_a_decay_outside_the_unit_interval_is_refused(decay: float) -> None:
    with pytest.raises(ValidationError, match="than"):
        TrainConfig(average=decay)
