import pytest

from fedkr.config import BackendConfig
from fedkr.errors import UserError
from simulations.backends import make_backend
from simulations.backends.inline import InlineBackend


def test_an_unknown_backend_is_named():
    assert isinstance(make_backend(BackendConfig(kind="inline")), InlineBackend)
    with pytest.raises(UserError, match=r"backend\.kind='rya'.*did you mean 'ray'"):
        make_backend(BackendConfig(kind="rya"))
