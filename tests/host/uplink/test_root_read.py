"""What filters in root, while somebody has a table there that nft cannot print."""

from __future__ import annotations

import pytest

from lvagent.errors import CommandError, HostError
from lvagent.host import netns, rootfilter
from lvagent.host.nft import Nft
from lvagent.host.run import run

pytestmark = pytest.mark.host

OTHERS = """
table inet others {
 chain forward { type filter hook forward priority 0; policy drop; jump more; }
 chain more { ct state established counter accept comment "theirs"; }
}
"""
OWNED = "table inet owned {\n flags owner\n chain in { type filter hook input priority 0; counter drop; }\n}\n"
SPOILT = '{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "inet", "name": "owned", "flags": \n'
CRASHED = CommandError(["nft"], -6, "free(): double free detected")
REFUSED = CommandError(["nft"], 1, "Operation not permitted")


def answers(monkeypatch: pytest.MonkeyPatch, answer: str | CommandError) -> list[list[str]]:
    """Have nft answer so of the table that it cannot print."""
    asked: list[list[str]] = []

    def spoilt(argv: list[str]) -> str:
        asked.append(argv[3:])
        if argv[3:] in (["ruleset"], ["table", "inet", "owned"]):
            if isinstance(answer, str):
                return answer
            raise answer
        if argv[3:] == ["chains"]:  # one of them goes before it is looked at
            return run(argv).replace("]}\n", f", {GONE_CHAIN}]}}\n")
        return run(argv)

    monkeypatch.setattr(rootfilter, "run", spoilt)
    return asked


GONE_CHAIN = '{"chain": {"family": "inet", "table": "gone", "name": "c", "handle": 9}}'


@pytest.mark.parametrize("answer", [SPOILT, CRASHED])
def test_a_table_that_nft_cannot_print_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, answer: str | CommandError
) -> None:
    def body() -> None:
        context = Nft()
        context.run(OTHERS, "the test")
        alone = rootfilter.read()
        context.run(OWNED, "the test")
        answers(monkeypatch, answer)
        found = rootfilter.read()
        assert tuple(one for one in found.chains if one.table != "owned") == alone.chains
        [owned] = [one for one in found.chains if one.table == "owned"]
        assert (owned.hook, len(owned.rules)) == ("input", 1)
        context.close()

    netns.scratch(body)


def test_what_nft_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, REFUSED)
    with pytest.raises(CommandError, match="not permitted"):
        rootfilter.read()
    assert asked == [["ruleset"]]
    with pytest.raises(HostError, match="not understood"):
        rootfilter.parse(SPOILT)
