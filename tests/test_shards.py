import errno
import os
import pickle
import resource
import sys

import pytest
import torch
from safetensors import safe_open

from skeleton_llm import shards
from skeleton_llm.cli.resume import newest_checkpoint, step_of

WORK = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "shutil.rmtree"}


class Killed(BaseException):
    """What ends a process without a word: from then on it does nothing to files, tidying up included."""


class Assassin:
    """Kills the process, as far as files can tell, at the given one of its operations on a folder's files."""

    def __init__(self):
        self.folder, self.left = None, 0
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.folder is None or event not in WORK or not str(arguments[0]).startswith(self.folder):
            return
        self.left -= 1
        if self.left < 0:
            raise Killed

    def kills(self, folder, at, act):
        self.folder, self.left = str(folder), at
        try:
            act()
        except Killed:
            return True
        finally:
            self.folder = None
        return False


@pytest.fixture(scope="module")
def assassin():
    return Assassin()  # one, as an audit hook stays


def tensors(value):
    return {
        f"{shards.WEIGHTS}net.weight": torch.full((64, 8), float(value)),
        f"{shards.WEIGHTS}net.temperature": torch.tensor(float(value)),
        "optimizer.0.exp_avg.net.weight": torch.full((64, 8), -float(value)),
    }


def write(path, value, step=None):
    rest = {"global_step": value if step is None else step, "optimizer_states": [{"param_groups": []}]}
    shards.write(path, tensors(value), rest)


def whole(folder):
    """Values of all folders that look like checkpoints; each must be whole, and hold one value."""
    found = {}
    for path in folder.glob("*.ckpt"):
        weights = shards.read(path)["state_dict"]
        (found[path.name],) = {float(x) for tensor in weights.values() for x in tensor.flatten()}
    return found


def test_a_folder_gives_back_what_was_written_but_the_optimisers_averages(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_FILE_BYTES", 100)  # more files than one
    write(tmp_path / "step=3.ckpt", 3)
    found = shards.read(tmp_path / "step=3.ckpt")
    assert found["global_step"] == 3
    assert "optimizer_states" not in found
    assert {f"{shards.WEIGHTS}{name}" for name in found["state_dict"]} == {
        name for name in tensors(3) if name.startswith(shards.WEIGHTS)
    }
    assert all(tensor.equal(tensors(3)[f"{shards.WEIGHTS}{name}"]) for name, tensor in found["state_dict"].items())
    assert len([*(tmp_path / "step=3.ckpt").glob("*.safetensors")]) > 1
    here = {name: torch.zeros_like(tensor) for name, tensor in tensors(3).items()}
    shards.fill(tmp_path / "step=3.ckpt", here)
    assert all(here[name].equal(tensor) for name, tensor in tensors(3).items())
    rest, names = shards.contents(tmp_path / "step=3.ckpt")
    assert rest["global_step"] == 3
    assert names == {*here}


def test_a_checkpoint_that_is_a_file_is_read_alike(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "global_step": 1}, tmp_path / "a.ckpt")
    assert shards.read(tmp_path / "a.ckpt")["state_dict"]["a"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["step=3.ckpt", "step=7.ckpt"], ids=["replaced", "beside"])
def test_a_kill_at_any_operation_of_a_write_leaves_a_whole_checkpoint(tmp_path, assassin, name):
    kills = 0
    while True:
        folder = tmp_path / str(kills)
        folder.mkdir()
        write(folder / "step=3.ckpt", 3)
        if not assassin.kills(folder, kills, lambda to=folder / name: write(to, 7)):
            break
        left = whole(folder)
        assert left[newest_checkpoint(folder).name] in (3, 7)
        assert left.get("step=3.ckpt", left.get("step=3.old.ckpt")) == 3 or left["step=3.ckpt"] == 7
        assert {*left.values()} <= {3, 7}
        write(folder / "step=9.ckpt", 9)  # the run goes on
        after = whole(folder)
        assert after.keys() <= {"step=3.ckpt", "step=7.ckpt", "step=9.ckpt"}
        assert after["step=9.ckpt"] == 9
        assert after["step=3.ckpt"] in left.values()
        assert not [*folder.glob(".*")]
        kills += 1
    assert kills > 8
    assert whole(folder) == {"step=3.ckpt": 3, name: 7}


def test_the_best_checkpoint_is_never_one_to_go_on_from(tmp_path, assassin):
    kills = 0
    while True:
        folder = tmp_path / str(kills)
        write(folder / "step=3.ckpt", 3)
        write(folder / "best.ckpt", 7)
        if not assassin.kills(folder, kills, lambda to=folder / "best.ckpt": write(to, 8)):
            break
        assert newest_checkpoint(folder).name == "step=3.ckpt"
        assert {7, 8} & {*whole(folder).values()}
        write(folder / "step=9.ckpt", 9)
        assert whole(folder)["best.ckpt"] in (7, 8)
        kills += 1
    assert kills > 8


def test_a_kill_in_the_middle_of_a_shard_leaves_the_last_one(tmp_path, assassin, monkeypatch):
    write(tmp_path / "step=3.ckpt", 3)
    sync = os.fsync

    def half(handle):
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        assassin.left = 0  # no operation more
        sync(handle)

    monkeypatch.setattr(os, "fsync", half)
    assert assassin.kills(tmp_path, 10**6, lambda: write(tmp_path / "step=7.ckpt", 7))
    monkeypatch.undo()
    assert whole(tmp_path) == {"step=3.ckpt": 3}
    assert (tmp_path / ".step=7.ckpt.tmp").is_dir()
    write(tmp_path / "step=7.ckpt", 7)
    assert {path.name for path in tmp_path.iterdir()} == {"step=3.ckpt", "step=7.ckpt"}


def test_a_kill_at_any_operation_of_a_deletion_leaves_all_or_nothing(tmp_path, assassin):
    kills = 0
    while True:
        folder = tmp_path / str(kills)
        write(folder / "step=3.ckpt", 3)
        if not assassin.kills(folder, kills, lambda path=folder / "step=3.ckpt": shards.remove(path)):
            break
        assert whole(folder) in ({"step=3.ckpt": 3}, {})
        kills += 1
    assert kills > 2
    assert not [*folder.iterdir()]


def test_a_full_disk_is_one_sentence_and_leaves_the_last_checkpoint(tmp_path):
    write(tmp_path / "step=3.ckpt", 3)
    large = {f"{shards.WEIGHTS}w": torch.ones(2**20)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
        with pytest.raises(OSError, match=r"step=7.ckpt: rank 0 cannot write its part \(File too large\); make room"):
            shards.write(tmp_path / "step=7.ckpt", large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step=3.ckpt"]
    assert whole(tmp_path) == {"step=3.ckpt": 3}


def test_a_folder_that_cannot_be_made_or_renamed_is_the_same_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"rank 0 cannot write its part \(Not a directory|File exists"):
        write(tmp_path / "file" / "step=3.ckpt", 3)
    write(tmp_path / "step=3.ckpt", 3)

    def read_only(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.rename", read_only)
    with pytest.raises(OSError, match="Read-only file system"):
        write(tmp_path / "step=7.ckpt", 7)
    assert whole(tmp_path) == {"step=3.ckpt": 3}


def test_what_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "step=3.ckpt"
    write(path, 3)
    shard = next(path.glob("*.safetensors"))
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-1])
    with pytest.raises(ValueError, match=f"step=3.ckpt: {shard.name} is cut off or gone; name another checkpoint of"):
        shards.contents(path)
    assert step_of(path) is None
    shard.unlink()
    with pytest.raises(ValueError, match="is cut off or gone"):
        shards.read(path)
    assert step_of(path) is None
    shard.write_bytes(kept)
    shards.read(path)
    assert step_of(path) == 3
    rest = path / shards.REST
    rest.write_bytes(rest.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"step=3.ckpt: no whole checkpoint; name another one of"):
        shards.read(path)
    rest.unlink()
    assert not shards.are_in(path)
    assert step_of(path) is None


def test_code_in_a_folder_is_refused_and_not_run(tmp_path):
    path = tmp_path / "step=3.ckpt"
    write(path, 3)

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"global_step": Code()}, path / shards.REST)
    with pytest.raises(ValueError, match=r"step=3.ckpt holds more than tensors and plain values, which is not loaded"):
        shards.read(path)
    with pytest.raises(ValueError, match="holds more than tensors"):
        newest_checkpoint(tmp_path)
    (path / shards.REST).write_bytes(pickle.dumps(Code(), 2))
    with pytest.raises(ValueError, match="holds more than tensors"):
        shards.read(path)
    assert not (tmp_path / "ran").exists()
    for shard in path.glob("*.safetensors"):  # and the rest of it is numbers
        with safe_open(shard, framework="pt") as file:
            assert [*file.keys()]
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".pt"}


def test_tensors_of_another_shape_are_refused(tmp_path):
    write(tmp_path / "step=3.ckpt", 3)
    with pytest.raises(ValueError, match=r"step=3.ckpt: .*net.weight; is it from another tuning\?"):
        shards.fill(tmp_path / "step=3.ckpt", {f"{shards.WEIGHTS}net.weight": torch.zeros(63, 8)})
