"""What the composition root makes of its environment."""

from __future__ import annotations

import pytest

from lvagent.errors import SpecError
from lvagent.main import log_level


def test_the_level_of_the_log() -> None:
    assert [log_level(text) for text in ("", "debug", "WARNING")] == ["INFO", "DEBUG", "WARNING"]
    with pytest.raises(SpecError) as refused:
        log_level("chatty")
    assert (refused.value.path, refused.value.hint) == ("LVAGENT_LOG", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
