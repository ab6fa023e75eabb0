"""A model file that is code: what it would do to the machine of whoever audits it, and does not."""

import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from fedkr.errors import UserError
from simulations.audit_run.torchscript import confinement, model
from simulations.audit_run.torchscript.archive import checked_archive
from simulations.audit_run.torchscript.confinement import why_not
from simulations.audit_run.torchscript.messages import read_message, write_message
from simulations.audit_run.torchscript.model import ConfinedModel
from simulations.audit_run.torchscript.operators import unknown_operators

confining = pytest.mark.skipif(why_not() is not None, reason="this system runs no TorchScript")
WRITTEN = Path("/tmp/written-by-a-model")


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Writing(nn.Module):
    """Answers like a classifier, and writes a file."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "/tmp/written-by-a-model")
        return x.mean((2, 3))


class Mapping(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.from_file("/tmp/written-by-a-model", True, 4)
        return x.mean((2, 3)) + y[0]


class Hidden(nn.Module):
    """Writes where only an inner block of an inner function shows it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            if x.sum() > 0:
                x = x + torch.from_file("/tmp/written-by-a-model", True, 4)[0]
        return x.mean((2, 3))


class Loading(nn.Module):
    """Runs while it is loaded."""

    def __init__(self):
        super().__init__()
        self.state = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    @torch.jit.export
    def __getstate__(self):
        return (self.state, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        torch.save(state[0], "/tmp/written-by-a-model")
        self.state = state[0]
        self.training = state[1]


class Misbehaving(nn.Module):
    """Does what the first value of its images says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deed = int(x[0, 0, 0, 0])
        if deed == 1:
            raise RuntimeError("\x1b[31mred\nand \x07 loud")
        if deed == 2:
            taken = torch.empty([int(x[0, 0, 0, 1]) * 1048576], dtype=torch.uint8)
            return x.mean((2, 3)) + taken.numel()
        while bool(deed == 3):
            x = x * 0.5
        return x.mean((2, 3))


@pytest.fixture(autouse=True)
def clean():
    yield
    WRITTEN.unlink(missing_ok=True)


def scripted(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(network)


def archive(network):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted(network), buffer)
    return buffer.getvalue()


def rewritten(content, code=lambda text: text, name=lambda name: name, compressed=zipfile.ZIP_STORED):
    """Return an archive with other code or names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compressed) as new:
        for entry in old.namelist():
            read = old.read(entry)
            new.writestr(name(entry), code(read.decode()).encode() if entry.endswith(".py") else read)
    return buffer.getvalue()


def saved(content, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    return tmp_path / "model.pt"


@pytest.fixture(scope="module")
def plain():
    return archive(Plain())


@pytest.mark.parametrize(
    ("network", "operator"), [(Writing, "aten::save"), (Mapping, "aten::from_file"), (Hidden, "aten::from_file")]
)
def test_an_operator_that_no_classifier_needs_is_seen_wherever_it_stands(network, operator):
    assert unknown_operators(scripted(network()).inlined_graph) == [operator]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_operators_of_a_classifier_are_known():
    convolutions = [
        nn.Conv2d(2, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU6(True),
        nn.MaxPool2d(2),
        nn.GroupNorm(2, 8),
        nn.SiLU(True),
    ]
    ends = [nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)]
    network = nn.Sequential(*convolutions, nn.Upsample(scale_factor=2.0), *ends, nn.Softmax(dim=1))
    attention = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    for example, model_of_today in ((torch.zeros(2, 2, 12, 12), network), (torch.zeros(2, 5, 8), attention)):
        assert unknown_operators(scripted(model_of_today.eval()).inlined_graph) == []
        assert unknown_operators(torch.jit.trace(model_of_today, example, check_trace=False).inlined_graph) == []


def hook(self, x: tuple[torch.Tensor]) -> None:
    torch.save(x[0], "/tmp/written-by-a-model")


def hooked():
    network = Plain()
    network.register_forward_pre_hook(hook)
    return archive(network)


class Stacked(nn.Module):
    def __init__(self, container):
        super().__init__()
        layers = [nn.Conv2d(2, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())]
        self.layers = (
            container(layers) if container is not nn.ModuleDict else container({"a": layers[0], "b": layers[1]})
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3))


class Listed(Stacked):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.mean((2, 3))


class Named(Stacked):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values():
            x = layer(x)
        return x.mean((2, 3))


STACKED = {
    "sequential": lambda: Stacked(lambda layers: nn.Sequential(*layers)),
    "list": lambda: Listed(nn.ModuleList),
    "dictionary": lambda: Named(lambda layers: nn.ModuleDict(zip("ab", layers, strict=True))),
}


@pytest.mark.parametrize("network", STACKED)
def test_a_scripted_model_of_several_layers_is_taken(network):
    content = archive(STACKED[network]().eval())
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert any(b"__len__" in file.read(name) for name in file.namelist() if name.endswith(".py"))
    assert unknown_operators(torch.jit.load(io.BytesIO(checked_archive(content))).inlined_graph) == []


def test_a_container_has_no_method_of_python_but_those_that_say_what_stands_there():
    content = archive(STACKED["dictionary"]())
    for old, new in (
        ("return 2", f"return int({RUN})"),
        ("__len__(", "__bool__("),
        ('torch.__contains__(["a", "b"], key)', f"bool({RUN})"),
        ('["a", "b"]', f'["a", str({RUN})]'),
    ):
        with pytest.raises(ValueError, match="code that runs when it is loaded, or around its forward"):
            checked_archive(rewritten(content, lambda code, old=old, new=new: code.replace(old, new)))


RUN = f'torch.from_file("{WRITTEN}", True, 4)'


def beginning(old, new):
    def edited(code):
        assert old in code
        return code.replace(old, new)

    return lambda content: rewritten(content, edited)


@pytest.mark.parametrize(
    "attack",
    [
        lambda content: archive(Loading()),
        lambda content: hooked(),
        beginning("x: Tensor)", f"x: Tensor, y: Tensor={RUN})"),
        beginning("  training : bool", f"  training : bool\n  more : Final[Tensor] = {RUN}"),
        beginning("class Plain", f"class More(NamedTuple):\n  more : Tensor = {RUN}\nclass Plain"),
        beginning("class Plain", "# \x0c\nclass Plain"),
        beginning("def forward(", "def __len__(self) -> int:\n    return 1\n  def forward("),
    ],
    ids=["restoring", "hook", "default", "constant", "tuple", "odd-letter", "method-of-python"],
)
def test_code_that_runs_when_it_is_loaded_or_around_forward_is_refused_before(attack, plain):
    with pytest.raises(ValueError, match="code that runs when it is loaded, or around its forward"):
        checked_archive(attack(plain))
    assert not WRITTEN.exists()


def test_pytorch_itself_runs_such_a_default(plain, tmp_path):
    """Why the test above is needed."""
    place = tmp_path / "written"
    content = beginning("x: Tensor)", f'x: Tensor, y: Tensor=torch.from_file("{place}", True, 4))')(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(io.BytesIO(content))
    assert place.exists()


def test_only_what_a_model_needs_is_loaded_under_exactly_its_name(plain):
    with zipfile.ZipFile(io.BytesIO(checked_archive(plain))) as kept:
        names = {name.split("/", 1)[1] for name in kept.namelist()}
    assert {"data.pkl", "constants.pkl", "version"} < names
    assert not any("debug" in name for name in names)
    # PyTorch would find the code under this name too.
    upper = checked_archive(rewritten(plain, name=lambda name: name.replace("/code/", "/CODE/")))
    with zipfile.ZipFile(io.BytesIO(upper)) as kept:
        assert not any(name.endswith(".py") for name in kept.namelist())


@pytest.mark.parametrize("change", [str, str.upper])
def test_an_archive_with_an_entry_twice_is_refused(change, plain):
    buffer = io.BytesIO(plain)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as twice:
        warnings.simplefilter("ignore")
        twice.writestr(change(twice.namelist()[0]), b"another")
    with pytest.raises(ValueError, match="twice"):
        checked_archive(buffer.getvalue())


def test_an_archive_that_unpacks_to_much_more_than_its_size_is_refused_unread(plain, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *a: pytest.fail("read"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("model/code/bomb.py", bytes(65 * 2**20), compresslevel=1)
    with pytest.raises(ValueError, match="unpacks to more than 64 MiB above its own size"):
        checked_archive(buffer.getvalue())


@confining
def test_a_model_that_would_write_a_file_is_refused_in_its_child_and_writes_none(tmp_path):
    with pytest.raises(UserError, match=r"model\.pt: .*\(uses aten::save, which no classifier needs\)$"):
        ConfinedModel(saved(archive(Writing()), tmp_path))
    assert not WRITTEN.exists()


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory):
    """One child for all tests of a model that runs; the last test ends it."""
    return ConfinedModel(saved(archive(Misbehaving()), tmp_path_factory.mktemp("model")))


def asking(deed, amount=0.0):
    images = torch.rand(3, 2, 4, 4)
    images[0, 0, 0, :2] = torch.tensor([float(deed), float(amount)])
    return images


@confining
def test_a_model_answers_through_its_child_bit_by_bit(misbehaving):
    images = asking(0)
    assert torch.equal(misbehaving(images), images.mean((2, 3)))


@confining
def test_an_error_of_the_model_is_one_printable_line_and_the_child_goes_on(misbehaving):
    with pytest.raises(RuntimeError) as raised:
        misbehaving(asking(1))
    assert str(raised.value).isprintable() and "loud" in str(raised.value)
    assert misbehaving(asking(0)).shape == (3, 2)


@confining
def test_a_model_cannot_take_more_than_half_of_the_memory(misbehaving):
    mebibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert misbehaving(asking(2, 100)).min() > 1e8
    with pytest.raises(RuntimeError, match="memory"):
        misbehaving(asking(2, int(mebibytes * 0.55)))


@confining
def test_a_model_that_computes_for_ever_is_ended_and_says_so(misbehaving):
    misbehaving.patience = 1.0
    with pytest.raises(UserError, match="gave no answer in 1 seconds"):
        misbehaving(asking(3))
    with pytest.raises(UserError, match="the process that runs the model ended"):
        misbehaving(asking(0))


# Whatever a model might reach through a fault of PyTorch: run in a child, with and without the rules.
ATTEMPTS = {
    "make a file": "open('made', 'w')",
    "change a file": "open('kept', 'r+')",
    "add to a file": "open('kept', 'a')",
    "empty a file by its name": "os.truncate('kept', 4)",
    "empty a file while it is read": "os.open('kept', os.O_RDONLY | os.O_TRUNC)",
    "remove a file": "os.unlink('spare')",
    "rename a file": "os.rename('kept', 'kept')",
    "link a file": "os.symlink('kept', 'link')",
    "change a mode": "os.chmod('kept', 0o600)",
    "change a time": "os.utime('kept')",
    "make a folder": "os.mkdir('folder')",
    "make a file in memory": "os.memfd_create('made')",
    "read a file": "open('kept').read()",
    "list a folder": "os.listdir('.')",
    "read the environment": "open('/proc/self/environ').read()",
    "read the system's files": "open('/etc/passwd').read()",
    "open a TCP socket": "socket.socket()",
    "open a UDP socket": "socket.socket(type=socket.SOCK_DGRAM)",
    "open a local socket": "socket.socket(socket.AF_UNIX)",
    "start a process": "os.fork() or os._exit(0)",
    "start a program": "subprocess.run(['true'])",
    "signal another process": "os.kill(os.getppid(), 0)",
    "change its limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
}
ALLOWED = {
    "read Python's libraries": "open(os.__file__).read()",
    "start a thread": "threading.Thread(target=print).start()",
    "take memory": "bytearray(2**24)",
}
SCRIPT = """
import json, os, resource, socket, subprocess, sys, threading
from simulations.audit_run.torchscript.confinement import confine
if sys.argv[1] == "confined":
    confine()
found = {}
for name, attempt in json.loads(sys.stdin.read()).items():
    try:
        exec(attempt)
        found[name] = "done"
    except (OSError, ValueError):
        found[name] = "refused"
sys.stderr.write(json.dumps(found))
"""


def outcomes(how, folder):
    for name in ("kept", "spare"):
        (folder / name).write_text("kept")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        input=json.dumps(ATTEMPTS | ALLOWED),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stderr)


@confining
def test_a_confined_process_computes_and_reads_libraries_and_nothing_else(tmp_path):
    assert outcomes("confined", tmp_path) == dict.fromkeys(ATTEMPTS, "refused") | dict.fromkeys(ALLOWED, "done")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept": "kept", "spare": "kept"}


@confining
def test_without_the_rules_a_process_can_do_all_of_that(tmp_path):
    assert set(outcomes("free", tmp_path).values()) == {"done"}


ANSWERING = "import os, struct, sys; r = sys.stdin.buffer.read; r(struct.unpack('<Q', r(8))[0]); "


def answering(content):
    return f"os.write(1, {struct.pack('<Q', len(content)) + content!r}); "


@confining
@pytest.mark.parametrize(
    ("child", "line"),
    [
        ("import os; os._exit(1)", "the process that runs the model ended"),
        ("import time; time.sleep(60)", "gave no answer in 1 seconds"),
        (ANSWERING + "os.write(1, b'\\xff' * 9)", "the process that runs the model ended"),
        (ANSWERING + answering(b"!\x1b[2J\xff\nmore"), r"\(\?\[2J\ufffd more\)$"),
    ],
)
def test_a_child_that_went_over_to_the_model_is_believed_nothing(child, line, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "CHILD", child)
    monkeypatch.setattr(model, "PATIENCE", 1.0)
    with pytest.raises(UserError, match=line):
        ConfinedModel(saved(plain, tmp_path))


@confining
@pytest.mark.parametrize(
    ("answer", "line"),
    [(b"=\x80\x04.", "answers with no tensor"), (b"?tu\x07ple", r"returns a tu\?ple; it must return logits")],
)
def test_an_answer_that_is_no_tensor_is_one_line(answer, line, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "CHILD", ANSWERING + answering(b"=") + "r(8); " + answering(answer) + "r()")
    with pytest.raises(UserError, match=line):
        ConfinedModel(saved(plain, tmp_path))(torch.zeros(1, 1, 2, 2))


def test_a_message_longer_than_asked_for_is_not_read():
    pipe = io.BytesIO()
    write_message(pipe, b"12345")
    for most, found in ((5, b"12345"), (4, None)):
        pipe.seek(0)
        assert read_message(pipe, most) == found


@pytest.mark.parametrize(
    ("system", "lack"),
    [
        (("darwin", "arm64", 7), "has no Landlock"),
        (("linux", "riscv64", 7), "not known for riscv64"),
        (("linux", "x86_64", -1), "its kernel has no Landlock"),
    ],
)
def test_a_system_that_cannot_confine_refuses_in_one_line(system, lack, plain, tmp_path, monkeypatch):
    platform, machine, version = system
    monkeypatch.setattr(confinement.sys, "platform", platform)
    monkeypatch.setattr(confinement.platform, "machine", lambda: machine)
    monkeypatch.setattr(confinement, "landlock_version", lambda: version)
    monkeypatch.setattr(model, "_start", lambda folder: pytest.fail("started"))
    with pytest.raises(UserError, match=f"TorchScript is code, .*{lack}.*take .*safetensors") as raised:
        ConfinedModel(saved(plain, tmp_path))
    assert "\n" not in str(raised.value)
