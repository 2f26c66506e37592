from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from lightning_modules import Optimization

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_papers_schedule_is_75000_micro_iterations_of_4_in_batches_of_256():
    config = yaml.safe_load((CONFIGS / "paper/llm_ar_stage2.yaml").read_text())
    trainer, micro = config["trainer"], config["data"]["init_args"]["batch_size"]
    assert micro == 4
    assert micro * trainer["accumulate_grad_batches"] == 256
    assert trainer["max_steps"] == -(-75_000 * 4 // 256) == 1172
    assert trainer["val_check_interval"] % trainer["accumulate_grad_batches"] == 0
    schedule = Optimization(**config["model"]["init_args"]["optimization"])
    assert schedule.factor(0, 1172) * schedule.lr == pytest.approx(3e-3 / 100)
    assert schedule.factor(98, 1172) < schedule.factor(99, 1172) == schedule.factor(1171, 1172) == 1.0
    assert schedule.lr == 3e-3
    tuning = config["model"]["init_args"]["tuning"]
    assert tuning == {"mode": "lora", "r": 64, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "v_proj"]}


def trained(optimizer: str, steps: int, layer: nn.Linear, state: dict | None = None):
    built = Optimization(optimizer=optimizer, lr=1e-2, warmup_steps=0).build(layer.parameters(), steps)["optimizer"]
    if state is not None:
        built.load_state_dict(state)
    inputs = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(steps):
        loss = (layer(inputs) - inputs.roll(1, 1)).square().mean()
        built.zero_grad()
        loss.backward()
        built.step()
        losses.append(loss.item())
    return built, losses


def fresh() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(128, 128)


def test_eight_bit_averages_learn_like_32_bit_ones_and_go_on_from_a_checkpoint():
    _, plain = trained("adamw", 20, fresh())
    built, losses = trained("adamw_8bit", 20, layer := fresh())
    assert losses[-1] < 0.2 * losses[0]
    assert losses[-1] == pytest.approx(plain[-1], rel=0.05)
    weight, bias = (built.state[parameter] for parameter in layer.parameters())
    assert weight["state1"].dtype == weight["state2"].dtype == torch.uint8
    assert bias["state1"].dtype == torch.float32  # too small to be worth it

    first, _ = trained("adamw_8bit", 10, layer := fresh())
    again = fresh()
    again.load_state_dict(layer.state_dict())
    _, rest = trained("adamw_8bit", 10, again, first.state_dict())
    assert rest == losses[10:]


@pytest.mark.parametrize(
    ("preset", "epochs", "tenths", "warmup"), [("ctr_gcn", 65, (35, 55), 5), ("st_gcn", 80, (10, 50), 0)]
)
def test_the_graph_networks_presets_are_their_papers_epochs_of_ntu_60(preset, epochs, tenths, warmup):
    config = yaml.safe_load((CONFIGS / f"paper/{preset}.yaml").read_text())
    an_epoch = 40_091 / config["data"]["init_args"]["batch_size"]  # X-Sub's clips
    assert config["trainer"]["max_steps"] == pytest.approx(epochs * an_epoch, rel=0.005)
    assert (
        config["trainer"]["max_steps"] % config["trainer"]["val_check_interval"] == 0
    )  # the last weights are validated
    schedule = Optimization(**config["model"]["init_args"]["optimization"])
    assert (schedule.optimizer, schedule.lr, schedule.betas[0]) == ("sgd", 0.1, 0.9)
    if warmup:
        half, whole = (schedule.factor(round(share * warmup * an_epoch) - 1, 0) for share in (0.5, 1))
        assert (half, whole) == pytest.approx((0.5, 1.0), rel=0.005)
    for times, epoch in enumerate(tenths):
        before, after = (schedule.factor(round((epoch + shift) * an_epoch), 0) for shift in (-0.1, 0.1))
        assert (before, after) == pytest.approx((0.1**times, 0.1 ** (times + 1)))
    assert schedule.factor(config["trainer"]["max_steps"] - 1, 0) == pytest.approx(0.01)


def test_one_step_of_decay_is_a_list_of_one():
    one, several = (Optimization(decay="step", warmup_steps=0, decay_steps=steps) for steps in (50, [50]))
    assert [one.factor(step, 0) for step in (0, 49, 50, 99)] == [1.0, 1.0, 0.05, 0.05]
    assert [several.factor(step, 0) for step in (0, 49, 50, 99)] == [1.0, 1.0, 0.05, 0.05]


def test_sgd_is_nesterovs_with_weight_decay():
    weight, target = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0])
    parameter = nn.Parameter(weight.clone())
    made = Optimization(optimizer="sgd", lr=0.1, betas=(0.9, 0.0), weight_decay=0.01, warmup_steps=0)
    optimizer = made.build([parameter], 3)["optimizer"]
    momentum = torch.zeros(2)
    for _ in range(3):
        optimizer.zero_grad()
        (parameter - target).square().sum().backward()
        optimizer.step()
        gradient = 2 * (weight - target) + 0.01 * weight
        momentum = 0.9 * momentum + gradient
        weight = weight - 0.1 * (gradient + 0.9 * momentum)
        torch.testing.assert_close(parameter.detach(), weight)
