"""Every template that takes values has a property test: this is the list, and a new template is to be added to it."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import nodes

from lvagent.render import environment, templates_folder
from tests.unit.render import test_injection as injection
from tests.unit.render import test_injection_nft as filters
from tests.unit.render import test_probe as probes
from tests.unit.render import test_uplinks_nft as uplinks

TESTS: dict[str, Callable[..., None]] = {
    "api.html.j2": injection.test_page,
    "domain.xml.j2": injection.test_domain,
    "element.xml.j2": injection.test_element,
    "elements.nft.j2": filters.test_elements,
    "firewall.nft.j2": filters.test_the_base_of_the_rules_takes_settings_and_no_value_of_a_spec,
    "fabric.nft.j2": filters.test_what_is_below_the_elements_takes_no_value_of_a_spec,
    "guard.nft.j2": filters.test_what_is_below_the_elements_takes_no_value_of_a_spec,
    "probe.nft.j2": probes.test_the_names_of_links_make_no_other_lines,
    "router.nft.j2": uplinks.test_the_tables_take_nets_and_addresses_and_no_text,
    "uplink.nft.j2": uplinks.test_the_tables_take_nets_and_addresses_and_no_text,
    "vpc.nft.j2": filters.test_port,
    **dict.fromkeys(injection.DEVICES, injection.test_device),
    **dict.fromkeys(injection.RAW, injection.test_no_value_begins_a_line),
    # Beside what all templates of lines have, what is special to these:
    "dnsmasq.conf.j2": injection.test_dnsmasq,
    "libvirt-hook.sh.j2": injection.test_hook,
    "lvagent.service.j2": injection.test_unit,
}


def with_values() -> set[str]:
    """The templates that say something of a value, or are rendered at all (named so)."""
    folder = templates_folder()
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            parts = environment().parse(path.read_text())
            takes = list(parts.find_all((nodes.Name, nodes.Call, nodes.Filter)))
            if takes or path.suffix == ".j2":
                found.add(str(path.relative_to(folder)))
    return found


def test_every_template_that_takes_values_has_a_property_test() -> None:
    assert with_values() - TESTS.keys() == set(), "write a property test for it, and name it here"
    assert TESTS.keys() - with_values() == set()


def test_the_tests_are_there() -> None:
    assert all(test.__name__.startswith("test_") for test in TESTS.values())
