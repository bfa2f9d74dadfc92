"""Golden files: a rendered text is compared with the one that was looked at and kept.

    golden("domain/minimal.xml", text)

``pytest --regenerate`` writes the files instead; look at the difference before it is committed.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "golden"

regenerate = False
"""Set by conftest.py from the command line."""


def golden(name: str, text: str) -> None:
    """Compare a text with the golden file ``tests/golden/<name>``.

    :raise AssertionError: they differ, or there is no such file.
    """
    file = FOLDER / name
    if regenerate:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return
    assert file.exists(), f"there is no golden file {file}; make it with pytest --regenerate"
    assert text == file.read_text(), f"{file} differs"
