"""The unit's hardening: what it says, and that none of it makes a mount namespace."""

from __future__ import annotations

from pathlib import Path

from lvagent.host.privileges import NUMBERS
from lvagent.render.unit import CAPABILITIES, STARTING, service_unit

MOUNT_NAMESPACE = {
    "BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "ExtensionDirectories", "ExtensionImages",
    "InaccessibleDirectories", "InaccessiblePaths", "JoinsNamespaceOf", "LogNamespace", "MountAPIVFS", "MountFlags",
    "MountImages", "NoExecPaths", "PrivateBPF", "PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateNetwork",
    "PrivatePIDs", "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectControlGroups", "ProtectHome",
    "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc",
    "ProtectSystem", "ReadOnlyDirectories", "ReadOnlyPaths", "ReadWriteDirectories", "ReadWritePaths", "RootDirectory",
    "RootEphemeral", "RootHash", "RootImage", "TemporaryFileSystem", "NetworkNamespacePath", "IPCNamespacePath",
    "LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted", "ImportCredential",
    "CacheDirectory", "ConfigurationDirectory", "LogsDirectory", "StateDirectory",
}  # fmt: skip
"""Settings by which systemd gives a service mounts, or another namespace, of its own, or would if others were set as
well (systemd.exec(5)). In such a service ``ip netns add`` makes names that nobody else sees."""

HIDES_KVM = {"ProtectClock", "PrivateDevices"}
"""They allow one device, and by that forbid all others."""

ALLOWED = {
    "Type", "NotifyAccess", "ExecStart", "Restart", "RestartSec", "KillMode", "TimeoutStopSec", "RuntimeDirectory",
    "RuntimeDirectoryMode", "RuntimeDirectoryPreserve", "LimitNOFILE", "LimitCORE", "TasksMax", "OOMScoreAdjust",
    "UMask", "NoNewPrivileges", "CapabilityBoundingSet", "RestrictNamespaces", "RestrictAddressFamilies",
    "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute", "KeyringMode",
    "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber", "DevicePolicy", "DeviceAllow",
}  # fmt: skip
"""What was looked at; another setting is to be looked up in systemd.exec(5) before it is added here."""


def settings() -> dict[str, str]:
    """The service's settings; each is there once, but for the devices, of which each has a line."""
    rows = (
        service_unit(["/usr/bin/lvagent", "serve"]).partition("[Service]\n")[2].partition("[Install]")[0].splitlines()
    )
    pairs = [tuple(row.split("=", 1)) for row in rows if row and not row.startswith("#")]
    once = [name for name, _ in pairs if name != "DeviceAllow"]
    assert len(set(once)) == len(once)
    return dict(pairs)


def test_it_opens_two_devices_of_the_host() -> None:
    text = service_unit(["/usr/bin/lvagent", "serve"])
    devices = [row.removeprefix("DeviceAllow=") for row in text.splitlines() if row.startswith("DeviceAllow=")]
    assert devices == ["/dev/kvm rw", "/dev/net/tun rw"]


def test_nothing_gives_it_mounts_of_its_own_or_hides_kvm() -> None:
    assert settings().keys() & (MOUNT_NAMESPACE | HIDES_KVM) == set()


def test_every_setting_was_looked_at() -> None:
    assert settings().keys() == ALLOWED
    assert not ALLOWED & (MOUNT_NAMESPACE | HIDES_KVM)


def test_it_may_have_what_the_agent_keeps_and_what_its_start_needs() -> None:
    names = {name.removeprefix("CAP_").lower() for name in settings()["CapabilityBoundingSet"].split()}
    assert names == {*CAPABILITIES, *STARTING}
    assert names <= NUMBERS.keys()


def test_the_documentation_names_what_is_kept() -> None:
    operations = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    rows = [row.split("|") for row in operations.splitlines() if row.startswith("| `CAP_")]
    told = {name.strip(" `").removeprefix("CAP_").lower(): row[2].strip() for row in rows for name in row[1].split(",")}
    assert told.keys() == CAPABILITIES.keys()
    assert {name: why for name, why in CAPABILITIES.items() if why != told[name] and why != "as setgid"} == {}


def test_the_namespaces_it_makes_are_allowed() -> None:
    assert set(settings()["RestrictNamespaces"].split()) == {"ipc", "mnt", "net", "pid", "uts"}


def test_what_it_calls_is_not_forbidden() -> None:
    forbidden = set(settings()["SystemCallFilter"].removeprefix("~").split())
    assert not forbidden & {"@mount", "@module", "@setuid", "@privileged", "@resources", "@system-service", "@chown"}
    assert settings()["SystemCallFilter"].startswith("~")
