"""What fails before the guard is there leaves without its text."""

import builtins
import runpy
from pathlib import Path

import pytest

SHIM = Path(__file__).parents[2] / "fedkr_app.py"


def test_an_import_that_fails_does_not_send_its_path(monkeypatch, caplog):
    plain = builtins.__import__

    def denied(name, *rest):
        if name == "sites.app":
            raise PermissionError(13, "Permission denied", "/wards/7/patient-4711")
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", denied)
    with pytest.raises(ImportError) as caught:
        runpy.run_path(str(SHIM))
    assert "patient" not in f"{type(caught.value)} {caught.value}"
    assert "patient-4711" in caplog.text
