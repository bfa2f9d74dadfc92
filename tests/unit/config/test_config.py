"""Settings: defaults, file over them, environment over that; every mistake is named."""

from __future__ import annotations

import dataclasses

import pytest

from lvagent import config
from lvagent.config import Settings, load
from lvagent.errors import SpecError


@pytest.fixture
def write(tmp_path):
    def write(text: str, encoding: str = "utf-8"):
        path = tmp_path / "lvagent.toml"
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.fixture(autouse=True)
def no_default_file(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.toml")


def refused(file=None, **environ: str) -> tuple[str, str]:
    with pytest.raises(SpecError) as caught:
        load(file, environ)
    return caught.value.path, caught.value.message


def test_without_file_and_environment_all_is_default():
    assert load(None, {}) == Settings()


def test_defaults_are_valid_when_spelled_out(write):
    lines = []
    for section in dataclasses.fields(Settings):
        lines.append(f"[{section.name}]")
        for entry in dataclasses.fields(getattr(Settings(), section.name)):
            value = getattr(getattr(Settings(), section.name), entry.name)
            text = {bool: str(value).lower(), tuple: repr(list(value)) if isinstance(value, tuple) else ""}
            lines.append(f"{entry.name} = {text.get(type(value), repr(value))}")
    assert load(write("\n".join(lines)), {}) == Settings()


def test_file_over_defaults_and_environment_over_file(write):
    file = write('[fabric]\nnetns = "fromfile"\nmtu = 9000\n[vpc]\nforwarders = ["10.0.0.1"]\n')
    settings = load(file, {"LVAGENT_FABRIC_NETNS": "fromenv", "LVAGENT_GUESTS_FAST_CAPABILITIES": "yes"})
    assert settings == dataclasses.replace(
        Settings(),
        fabric=config.FabricSettings(netns="fromenv", mtu=9000),
        vpc=config.Vpc(forwarders=("10.0.0.1",)),
        guests=config.Guests(fast_capabilities=True),
    )


def test_environment_may_empty_a_text_and_fill_a_list():
    settings = load(None, {"LVAGENT_FABRIC_NETNS": "", "LVAGENT_VPC_FORWARDERS": " 10.0.0.1, fd00::1 ,"})
    assert (settings.fabric.netns, settings.vpc.forwarders) == ("", ("10.0.0.1", "fd00::1"))


def test_file_named_in_the_environment(write):
    assert load(None, {"LVAGENT_CONFIG": str(write("[sweep]\ninterval = 5\n"))}).sweep.interval == 5


def test_other_variables_are_not_settings():
    assert load(None, {"LVAGENT_LOG": "debug", "PATH": "/bin"}) == Settings()


def test_file_is_utf8_whatever_the_locale(write):
    assert load(write('[volumes]\nfolders = ["/srv/größe"]\n'), {}).volumes.folders == ("/srv/größe",)


def test_sockets_follow_the_run_folder():
    settings = load(None, {"LVAGENT_PATHS_RUN": "/run/other"})
    assert (settings.api_socket, settings.hook_socket) == ("/run/other/api.sock", "/run/other/hook.sock")
    assert load(None, {"LVAGENT_API_SOCKET": "/tmp/a.sock"}).api_socket == "/tmp/a.sock"


def test_a_file_that_was_named_must_be_there(tmp_path):
    absent = tmp_path / "other.toml"
    assert refused(absent) == (str(absent), "there is no such file")
    assert refused(None, LVAGENT_CONFIG=str(absent)) == (str(absent), "there is no such file")


def test_a_folder_is_no_file(tmp_path):
    path, message = refused(tmp_path)
    assert path == str(tmp_path)
    assert message.startswith("cannot read the settings: ")


@pytest.mark.parametrize(
    ("text", "encoding", "why"),
    [("[fabric", "utf-8", "cannot read the settings"), ('[vpc]\ndomain = "ä"', "latin-1", "cannot read the settings")],
)
def test_what_is_no_toml(write, text, encoding, why):
    path, message = refused(write(text, encoding))
    assert path.endswith("lvagent.toml")
    assert message.startswith(why)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[fabrik]\n", "fabrik", "there is no such setting"),
        ("[fabric]\nnetnss = 'x'\n", "fabric.netnss", "there is no such setting"),
        ("fabric = 5\n", "fabric", "must be a table"),
        ("[fabric]\nmtu = '1500'\n", "fabric.mtu", "must be int, not str"),
        ("[fabric]\nmtu = true\n", "fabric.mtu", "must be int, not bool"),
        ("[fabric]\nmtu = 1500.0\n", "fabric.mtu", "must be int, not float"),
        ("[guests]\nfast_capabilities = 1\n", "guests.fast_capabilities", "must be bool, not int"),
        ("[vpc]\nforwarders = '10.0.0.1'\n", "vpc.forwarders", "must be a list of strings"),
        ("[vpc]\nforwarders = [1]\n", "vpc.forwarders", "must be a list of strings"),
        ("[vpc]\nforwarders = ['dns.example']\n", "vpc.forwarders", "['dns.example'] cannot be"),
        ("[vpc]\nforwarders = ['']\n", "vpc.forwarders", "[''] cannot be"),
        ("[vpc]\ndomain = 'a\\nserver=1.1.1.1'\n".replace("'", '"'), "vpc.domain", "'a\\nserver=1.1.1.1' cannot be"),
        ("[fabric]\nmtu = 100\n", "fabric.mtu", "100 cannot be"),
        ("[fabric]\nport = 0\n", "fabric.port", "0 cannot be"),
        ("[fabric]\nlocal = 'eth0'\n", "fabric.local", "'eth0' cannot be"),
        ("[fabric]\nnetns = '../x'\n", "fabric.netns", "'../x' cannot be"),
        ("[api]\nmode = '0999'\n", "api.mode", "'0999' cannot be"),
        ("[libvirt]\nstarts = 0\n", "libvirt.starts", "0 cannot be"),
        ("[guests]\naccel = 'xen'\n", "guests.accel", "'xen' cannot be"),
        ("[guests]\ndatasource = 'azure'\n", "guests.datasource", "'azure' cannot be"),
        ("[volumes]\nfolders = []\n", "volumes.folders", "[] cannot be"),
        ("[volumes]\nfolders = ['srv']\n", "volumes.folders", "['srv'] cannot be"),
        ("[volumes]\ncopy = 'link'\n", "volumes.copy", "'link' cannot be"),
        ("[volumes]\nreader = 'root'\n", "volumes.reader", "'root' cannot be"),
        ("[volumes]\nlargest_gb = 0\n", "volumes.largest_gb", "0 cannot be"),
        (
            "[volumes]\nfolders = ['/v', '/var/lib/lvagent/images/']\n",
            "volumes.folders",
            "the image folder is among them",
        ),
        ("[sweep]\ninterval = 0\n", "sweep.interval", "0 cannot be"),
        ("[paths]\nrun = 'run'\n", "paths.run", "is not an absolute path"),
    ],
)
def test_a_wrong_setting_is_named(write, text, path, message):
    assert refused(write(text)) == (path, message)


def test_the_hint_says_what_would_be_right(write):
    with pytest.raises(SpecError) as caught:
        load(write("[guests]\nfirmware = 'coreboot'\n"), {})
    assert caught.value.hint == "one of bios, uefi"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("LVAGENT_FABRIC_MTU", "big", "'big' is not a whole number"),
        ("LVAGENT_GUESTS_FAST_CAPABILITIES", "on?", "'on?' is not yes or no"),
        ("LVAGENT_FABRIC_NETNSS", "x", "there is no such setting"),
    ],
)
def test_a_wrong_variable_is_named(name, text, message):
    assert refused(None, **{name: text}) == (name, message)


def test_a_section_that_is_no_table_under_a_variable(write):
    assert refused(write("fabric = 5\n"), LVAGENT_FABRIC_MTU="1500") == ("fabric", "must be a table")


def test_every_check_is_of_a_setting():
    known = {
        f"{s.name}.{e.name}"
        for s in dataclasses.fields(Settings)
        for e in dataclasses.fields(getattr(Settings(), s.name))
    }
    assert set(config._CHECKS) - known == set()
