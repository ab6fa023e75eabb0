"""What can be seen in a TorchScript archive before it is loaded: nothing in it may run but its ``forward``."""

from __future__ import annotations

import ast
import io
import re
import zipfile
from collections.abc import Iterator

# Of an archive only this is loaded: no debugging tables, no extra files, no older layouts.
NEEDED = re.compile(r"[^/]+/(version|byteorder|data\.pkl|constants\.pkl|(data|constants)/\d+|code/.+\.py)")
# What torch.jit.script writes for nn.Sequential, nn.ModuleList and nn.ModuleDict.
CONTAINERS = re.compile(r"[^/]+/code/__torch__/torch/nn/modules/container(/___torch_mangle_\d+)?\.py")
# Methods that restore state, C++'s own classes, hooks.
RUNNING = (b"__setstate__", b"torch.classes", b"__forward_hooks__", b"__forward_pre_hooks__")
# torch.jit.save compresses code, and no weights.
UNPACKED = 64 * 2**20
CODE = re.compile(rb"[\n -~]*")


def checked_archive(content: bytes) -> bytes:
    """Return a TorchScript file written anew, entry by entry, so that what was looked through is what is loaded.

    Raises:
        ValueError: much more than its size, an entry twice, or code that would run besides ``forward``; whatever else
            ``zipfile`` raises for a damaged archive.
    """
    seen, buffer = set[str](), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        if sum(entry.file_size for entry in old.infolist()) > len(content) + UNPACKED:
            raise ValueError(f"unpacks to more than {UNPACKED >> 20} MiB above its own size")
        for entry in old.infolist():
            name = entry.filename
            # PyTorch finds entries in either case.
            if name.casefold() in seen:
                raise ValueError(f"has the entry {name[:80]!a} twice")
            seen.add(name.casefold())
            if NEEDED.fullmatch(name):
                new.writestr(zipfile.ZipInfo(name), _checked(name, old.read(entry)))
    return buffer.getvalue()


def _checked(name: str, content: bytes) -> bytes:
    is_code = name.endswith(".py")
    words = any(word in content for word in RUNNING) and (is_code or name.endswith(".pkl"))
    if words or (is_code and _runs_besides_forward(content, CONTAINERS.fullmatch(name) is not None)):
        raise ValueError(f"has code that runs when it is loaded, or around its forward ({name[-80:]!a})")
    return content


def _runs_besides_forward(code: bytes, containers: bool) -> bool:
    """Tell whether code calls something outside of methods, names a method as Python's own are, or is no plain text.

    Those of ``containers`` that only say what stands there may be.
    """
    if not CODE.fullmatch(code):
        return True
    tree = ast.parse(code)
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    calls = (isinstance(part, ast.Call) for value in _values_at_loading(tree) for part in ast.walk(value))
    own = (method.name.startswith("__") and not (containers and _is_plain(method)) for method in methods)
    return any(own) or any(calls)


def _is_plain(method: ast.FunctionDef) -> bool:
    """Tell whether a method is the length of a container, or whether it has a name, as ``torch.jit.script`` writes."""
    match method:
        case ast.FunctionDef(name="__len__", body=[ast.Return(value=ast.Constant(value=int()))]):
            return True
        case ast.FunctionDef(name="__contains__", body=[ast.Return(value=ast.Call(func=called, args=[names, key]))]):
            plain = isinstance(names, ast.List) and all(isinstance(name, ast.Constant) for name in names.elts)
            return plain and isinstance(key, ast.Name) and ast.unparse(called) == "torch.__contains__"
    return False


def _values_at_loading(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what PyTorch computes while it loads code: defaults of arguments, and all that a class has but methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            yield from (default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None)
        elif isinstance(node, ast.Module | ast.ClassDef):
            yield from (part for part in node.body if not isinstance(part, ast.FunctionDef | ast.ClassDef))
