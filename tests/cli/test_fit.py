import errno

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from skeleton_llm.cli.main import main
from small_runs import stage1_arguments, stage2_arguments


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--model.init_args.zipf_weightt", "1"], "zipf_weightt"),
        (["--model.init_args.network.widthh", "8"], "widthh"),
        (["--trainer.max_stepp", "5"], "max_stepp"),
        (["--model.init_args.zipf_weight", "much"], "zipf_weight"),
        (["--data.init_args.augmentation.crop", "3.0"], "augmentation.crop is a share"),
        (["--model.init_args.network.num_codes", "7"], "num_codes must be even"),
        (["--data.init_args.protocol", "nw_ucla_xview"], "does not fit the dataset 'synthetic'"),
        (["--data.init_args.folder", "/nowhere"], "/nowhere/dataset.json is missing"),
        (["--data.init_args.batch_size", "0"], "batch_size must be at least 1"),
        (["--trainer.max_steps", "-1"], "trainer.max_steps must say how many steps"),
        (["--trainer.max_steps", "2"], "model.quantize_after is 2, but the run ends at step 2"),
        (["--trainer.accelerator", "cuda"], "CUDAAccelerator"),
        (["--model.init_args.mmd_rows", "0"], "mmd_rows must be at least 1"),
        (["--model.init_args.llm.name", "no/such-model"], "'no/such-model' is no folder here"),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_and_exit_code_2(small_data, tmp_path, capsys, more, named):
    assert main(stage1_arguments(small_data, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert named in error[-1]
    assert len(error) == 1
    assert len(error[0]) < 500
    assert not (tmp_path / "run" / "results.json").exists()


def test_testing_without_a_checkpoint_is_refused(small_data, tmp_path, capsys):
    assert main(["test", *stage1_arguments(small_data, tmp_path / "run")[1:]]) == 2
    assert "holds no checkpoint to test" in capsys.readouterr().err


def test_a_missing_tokenizer_names_the_stage_that_makes_it(small_data, tmp_path, capsys):
    assert main(stage2_arguments(small_data, tmp_path / "run", tmp_path / "none")) == 2
    assert 'run "make stage1"' in capsys.readouterr().err


def test_bfloat16_on_a_cpu_without_it_is_told_with_the_mend(small_data, tmp_path, monkeypatch):
    monkeypatch.setattr("skeleton_llm.cli.fit.slow_bfloat16", lambda accelerator: accelerator == "cpu")
    one_step = ["--trainer.max_steps", "1", "--model.init_args.quantize_after", "0"]
    slow = stage1_arguments(small_data, tmp_path, "--trainer.precision", "bf16-mixed", *one_step)
    with pytest.warns(UserWarning, match=r"no bfloat16 arithmetic.*--trainer\.precision 32-true"):
        main(slow)


def test_a_folder_that_cannot_be_written_is_one_sentence_though_a_thread_of_tensorboards_writes(
    small_data, tmp_path, monkeypatch, capfd
):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    assert main(stage1_arguments(small_data, tmp_path / "run")) == 2
    error = capfd.readouterr().err
    assert "error: the run's folder cannot be written (No space left on device); the checkpoints written" in error
    assert "Traceback" not in error
