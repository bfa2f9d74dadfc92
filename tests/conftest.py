"""What all tests share."""

from __future__ import annotations

import pytest

from tests import golden


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--regenerate``: write golden files instead of comparing with them."""
    parser.addoption("--regenerate", action="store_true", help="write golden files instead of comparing with them")


def pytest_configure(config: pytest.Config) -> None:
    """Tell the comparer what was asked for."""
    golden.regenerate = bool(config.getoption("--regenerate"))
