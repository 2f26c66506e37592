import math

import pytest

from skeleton_llm.ablation.rounding import bounds, deviation, down, percent, signed, up
from skeleton_llm.metrics import Interval


def test_accuracies_are_never_rounded_up():
    assert percent(0.8199) == "81.9"
    assert percent(0.819) == "81.9"  # 818.99... tenths in binary
    assert percent(1.0) == "100.0"
    for right in range(465):
        shown = float(percent(right / 464))
        assert shown <= 100 * right / 464 + 1e-9
        assert 100 * right / 464 - shown < 0.1
        assert math.isclose(shown * 10, right * 1000 // 464)


def test_errors_and_deviations_are_never_rounded_down():
    assert up(17.31) == "17.4"
    assert up(17.3) == "17.3"
    assert up(0.0301, 3) == "0.031"
    assert deviation([80.0, 81.0]) == "0.8"  # 0.7071
    assert deviation([80.0]) == "-"


def test_intervals_grow_and_differences_keep_their_sign():
    assert bounds(Interval(0.5, 0.45678, 0.51234)) == "45.6 to 51.3"
    assert bounds(Interval(-0.02, -0.0312345, -0.0078901), 2) == "-3.13 to -0.78"
    assert (signed(-0.004), signed(1.239), signed(0.0)) == ("-0.01", "+1.23", "+0.00")
    assert (signed(89.7 - 91.5), signed(92.7 - 91.5)) == ("-1.80", "+1.20")  # -1.7999... and 1.2000...


@pytest.mark.parametrize("value", [0.0, 12.3, -0.05])
def test_down_and_up_meet_where_nothing_is_cut(value):
    assert down(value, 2) == up(value, 2) == f"{value:.2f}"
