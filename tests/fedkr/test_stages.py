"""Stage files: whole or absent, whatever happens while they are written."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from fedkr.disk import write_atomic
from fedkr.errors import UserError
from fedkr.stages import Artifact, StageStore, code_version, model_tensors, read_artifact, write_artifact


def artifact(value=1.0):
    return Artifact({"w": torch.full((3, 2), value), "n": torch.tensor(7)}, {"step": 3, "knobs": {"guidance": 1.5}})


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32])
def test_tensors_and_document_come_back_as_they_were(tmp_path, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    write_artifact(tmp_path / "a", Artifact({"t": tensor}, {"text": "ä", "list": [1, None]}))
    found = read_artifact(tmp_path / "a")
    assert found.tensors["t"].dtype == dtype
    assert torch.equal(found.tensors["t"], tensor)
    assert found.info == {"text": "ä", "list": [1, None]}


def test_a_channels_last_tensor_comes_back_in_the_same_order(tmp_path):
    tensor = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    write_artifact(tmp_path / "a", Artifact({"t": tensor}))
    assert torch.equal(read_artifact(tmp_path / "a").tensors["t"], tensor)


def test_an_artifact_without_tensors_is_a_file_too(tmp_path):
    write_artifact(tmp_path / "a", Artifact({}, {"done": True}))
    assert read_artifact(tmp_path / "a") == Artifact({}, {"done": True})


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_the_old_file_and_says_so_in_one_line(tmp_path, monkeypatch, call):
    path = tmp_path / "stage"
    write_artifact(path, artifact(1.0))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "rename")), full)
    with pytest.raises(UserError) as caught:
        write_artifact(path, artifact(2.0))
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device); free space or choose another folder"
    )
    assert torch.equal(read_artifact(path).tensors["w"], artifact(1.0).tensors["w"])
    assert leftovers(tmp_path) == []


def test_a_folder_that_is_a_file_is_one_line_too(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="taken/stage: cannot be written"):
        write_atomic(tmp_path / "taken" / "stage", b"x")


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "rename")])
def test_a_process_killed_while_it_writes_leaves_the_old_file_whole(tmp_path, monkeypatch, owner, call):
    path = tmp_path / "stage"
    write_atomic(path, b"old")
    child = os.fork()
    if not child:
        monkeypatch.setattr(owner, call, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        write_atomic(path, b"new" * 100_000)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("content", [b"", b"no stage file", None])
def test_a_file_that_is_no_stage_is_refused_by_name(tmp_path, content):
    path = tmp_path / "stage"
    if content is None:
        write_artifact(path, artifact())
        content = path.read_bytes()[:-5]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"stage: not a readable stage file .*; delete it to compute it again"):
        read_artifact(path)


def test_a_stage_is_computed_once_for_what_it_depends_on(tmp_path):
    store, computed = StageStore(tmp_path), []

    def compute():
        computed.append(1)
        return artifact()

    for depends in ({"seed": 0, "lr": 0.1}, {"lr": 0.1, "seed": 0}):
        assert torch.equal(store.run("teacher", depends, compute).tensors["w"], artifact().tensors["w"])
    assert len(computed) == 1
    store.run("teacher", {"seed": 1, "lr": 0.1}, compute)
    store.run("student", {"seed": 0, "lr": 0.1}, compute)
    assert len(computed) == 3


def test_a_stage_that_older_code_made_is_computed_again(tmp_path, monkeypatch):
    computed = []

    def compute():
        computed.append(1)
        return artifact()

    for version in ("old", "new", "new"):
        monkeypatch.setattr("fedkr.stages.code_version", lambda version=version: version)
        StageStore(tmp_path).run("teacher", {"seed": 0}, compute)
    assert len(computed) == 2


def test_any_change_of_the_code_that_computes_is_a_new_version_and_one_of_pages_is_none(tmp_path):
    for name in ("fedkr/seeds.py", "fedkr/report/html.py", "sites/handlers.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    first = code_version(tmp_path)
    (tmp_path / "fedkr/report/html.py").write_text("second")
    code_version.cache_clear()
    assert code_version(tmp_path) == first
    seen = {first}
    for name in ("fedkr/seeds.py", "sites/handlers.py"):
        (tmp_path / name).write_text("second")
        code_version.cache_clear()
        seen.add(code_version(tmp_path))
    assert len(seen) == 3


def test_a_stage_that_fails_leaves_no_file(tmp_path):
    def compute():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        StageStore(tmp_path).run("teacher", {}, compute)
    assert list(tmp_path.iterdir()) == []


def test_a_models_tensors_are_a_copy():
    model = torch.nn.Linear(2, 2)
    tensors = model_tensors(model)
    before = tensors["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(tensors["weight"], before)
    assert not tensors["weight"].requires_grad
