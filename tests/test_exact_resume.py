"""A run that was killed and is started again by the same command ends as one that nobody touched, bit for bit.

Ranks are forked from a process that has everything imported (benchmarks/torture): a start takes seconds.
"""

import signal

import pytest
import yaml

from benchmarks.torture.ends import differences, newest_step
from benchmarks.torture.jobs import Bench
from benchmarks.torture.runs import STEPS, Variant, prepare
from benchmarks.torture.traps import Trap
from benchmarks.torture.zygote import Zygote


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    base = tmp_path_factory.mktemp("bench")
    prepare(base)
    zygote = Zygote()
    yield Bench(base, zygote)
    zygote.close()


def unlike(bench, variant, trap=None):
    """Run it untouched, and killed (by default in the middle) and resumed; what differs in the end."""
    whole, killed = bench.base / variant.untouched.name, bench.base / f"killed-{variant.name}"
    untouched = bench.run(variant.untouched, whole)
    assert untouched.codes == [0] * variant.ranks, untouched.said
    trap = trap or Trap("action", untouched.counts["action"] // 2, "kill")
    died = bench.run(variant, killed, {0: [trap]}, all_die=True)
    assert died.codes[0] in (-signal.SIGKILL, -signal.SIGXFSZ)
    step = newest_step(killed)
    assert 0 < step < STEPS
    resumed = bench.run(variant, killed)
    assert resumed.codes == [0] * variant.ranks, resumed.said
    assert f"going on from step {step} " in resumed.said
    return differences(whole, killed)


def test_killed_in_the_middle_both_stages_end_as_if_they_had_not_been(bench):
    # with Gumbel noise, dropout, augmentation, a validation before and one after
    for stage in (1, 2):
        assert unlike(bench, Variant(stage)) == []
        config = yaml.safe_load((bench.base / Variant(stage).name / "config.yaml").read_text())
        assert config["data"]["init_args"]["augmentation"]["rotation"] > 0
        assert stage == 1 or config["model"]["init_args"]["tuning"]["dropout"] > 0


@pytest.mark.slow
def test_so_do_two_ranks_with_workers_accumulation_and_all_that_a_run_remembers(bench):
    # stage 1 with averages and revivals, stage 2 with its base in 4 bits and its optimiser in 8; killed inside a
    # checkpoint after the one of step 4, between two validations
    if not (bench.base / Variant(1).name).is_dir():
        assert bench.run(Variant(1), bench.base / Variant(1).name).codes == [0]
    for stage in (1, 2):
        variant = Variant(stage, ranks=2, accumulate=3, heavy=True, workers=2)
        assert unlike(bench, variant, Trap("write", 4, "kill", 1000)) == []


@pytest.mark.slow
def test_without_seeds_for_each_step_they_end_otherwise(bench, tmp_path):
    # the noise that resuming must repeat is there, and the comparison sees it
    if not (bench.base / Variant(1).name).is_dir():
        assert bench.run(Variant(1), bench.base / Variant(1).name).codes == [0]
    for shared in ("data", Variant(1).name):
        (tmp_path / shared).symlink_to(bench.base / shared)
    config = yaml.safe_load((bench.base / "stage1.yaml").read_text())
    callbacks = config["trainer"]["callbacks"]
    config["trainer"]["callbacks"] = [one for one in callbacks if one["class_path"] != "callbacks.StepSeed"]
    (tmp_path / "stage1.yaml").write_text(yaml.safe_dump(config))
    found = unlike(Bench(tmp_path, bench.zygote), Variant(1, accumulate=3))
    assert any(line.startswith(f"step={STEPS}.ckpt: .state_dict") for line in found)
