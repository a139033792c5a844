"""Learning rates at the steps that matter."""

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.training.schedules import ScheduleConfig, make_schedule


def rate(step, total=100, **settings):
    return float(make_schedule(ScheduleConfig(**settings), total)(step))


def test_linear_decay_falls_from_the_peak_to_zero():
    assert rate(0) == pytest.approx(5e-5)
    assert rate(50) == pytest.approx(2.5e-5)
    assert rate(100) == 0.0


def test_warm_up_rises_from_zero_to_the_schedule():
    warm = {"learning_rate": 1.0, "warmup_steps": 10}
    assert rate(0, **warm) == 0.0
    assert rate(5, **warm) == pytest.approx(0.5)
    assert rate(10, **warm) == pytest.approx(1.0)
    assert rate(55, **warm) == pytest.approx(0.5)
    assert rate(7, name="constant", **warm) == pytest.approx(0.7)


def test_inverse_square_root_holds_then_decays_by_the_step_itself():
    root = {"name": "inverse_square_root", "learning_rate": 1.0, "hold_steps": 100}
    assert rate(100, 1000, **root) == pytest.approx(1.0)
    assert rate(400, 1000, **root) == pytest.approx(0.5)
    assert rate(400, 1000, warmup_steps=50, **root) == pytest.approx(0.5)


def test_nonsense_is_refused_by_name():
    with pytest.raises(UserError, match="unknown schedule 'cosine'"):
        ScheduleConfig(name="cosine")
    with pytest.raises(UserError, match="warmup_steps 200 is more than .* 100 steps"):
        rate(0, warmup_steps=200)
