"""All routes, but those of the document that is made from them."""

from __future__ import annotations

from lvagent.api import events, explain, inward, metrics, monitor, peerings, strays, views, vpcs
from lvagent.api.contract import TEXT, XML, Header, Name, Reply, Route, View
from lvagent.spec.access import Role
from lvagent.spec.status import Action

VM = Name("id", "vm", r"i-[0-9]{10}", "i-0000000001")
VPC = Name("name", "vpc", r"vpc-[0-9a-z]{10}", "vpc-aaaaaaaaaa")
SUBNET = Name("name", "subnet", r"subnet-[0-9a-z]{10}", "subnet-aaaaaaaaaa")
PAIR = (
    Name("a", "vpc", r"vpc-[0-9a-z]{10}", "vpc-aaaaaaaaaa"),
    Name("b", "vpc", r"vpc-[0-9a-z]{10}", "vpc-bbbbbbbbbb"),
)
ADDRESS = Name("address", "floating address", r"[0-9A-Fa-f.:]{2,45}", "192.0.2.50")
PID = Name("pid", "stray", r"[1-9][0-9]{0,6}", "4242")
OPERATION = Name("id", "operation", r"op-[0-9a-f]{16}", "op-0123456789abcdef")
ACTION = Name("action", "action", "|".join(Action), Action.START.value, tuple(Action))

PREFER = Header("Prefer", "respond-async: answer 202 at once; wait=N: after N seconds (RFC 7240)", "respond-async")
IF_MATCH = Header("If-Match", 'only if the VM has this revision, as in its ETag: "3"; * is any', '"3"')
IF_NONE_MATCH = Header("If-None-Match", "*: only if there is no such VM", "*")
CHANGES = (PREFER, IF_MATCH, IF_NONE_MATCH)
PORTS_MATCH = Header("If-Match", "only if what is published has this digest, as in its ETag", '"0123456789abcdef"')

LATER = Reply(
    202, "It goes on; ask at Location how it stands.", "Operation", headers=("Location", "Preference-Applied")
)
CREATED = Reply(201, "It was made, and runs.", "PutResult", headers=("Location", "ETag"))
THERE = Reply(200, "It was changed to this spec, or had it already.", "PutResult", headers=("ETag",))


def _read(path: str, name: str, summary: str, view: View, schema: str, *names: Name) -> Route:
    reply = Reply(200, summary, schema, headers=("ETag",) if schema in ("Vm", "PortList") else ())
    return Route("GET", path, name, Role.READ, summary, view, (reply,), (404,) if names else (), names)


def _settle(word: str, name: str, summary: str, view: View) -> Route:
    replies = (Reply(200, "It was done, or there was nothing to do.", "Vm", headers=("ETag",)), LATER)
    path, errors = f"/v1/vms/{{id}}/{word}", (404, 409, 412, 413, 415)
    return Route("POST", path, name, Role.ADMIN, summary, view, replies, errors, (VM,), headers=CHANGES)


ROUTES: tuple[Route, ...] = (
    _read("/v1/vms", "listVms", "All VMs, by id.", views.list_vms, "VmList"),
    Route(
        "POST",
        "/v1/vms",
        "createVm",
        Role.ADMIN,
        "Make a VM and start it; the id is in the body. The same spec again: nothing happens.",
        views.create_vm,
        (CREATED, THERE, LATER),
        (409, 412, 413, 415),
        headers=CHANGES,
        body="VmSpec",
    ),
    _read("/v1/vms/{id}", "showVm", "One VM: its spec, and how it stands.", views.show_vm, "Vm", VM),
    Route(
        "PUT",
        "/v1/vms/{id}",
        "putVm",
        Role.ADMIN,
        "Make a VM, or change it to this spec; all or nothing. The same spec again: nothing happens.",
        views.put_vm,
        (CREATED, THERE, LATER),
        (409, 412, 413, 415),
        names=(VM,),
        headers=CHANGES,
        body="VmSpec",
    ),
    Route(
        "DELETE",
        "/v1/vms/{id}",
        "deleteVm",
        Role.ADMIN,
        "Stop a VM, and remove it with all that no other VM needs.",
        views.delete_vm,
        (Reply(204, "It is gone."), LATER),
        (404, 409, 412, 413, 415),
        names=(VM,),
        query=(views.GRACE, views.VOLUMES),
        headers=CHANGES,
    ),
    Route(
        "POST",
        "/v1/vms/{id}/{action}",
        "actOnVm",
        Role.OPERATE,
        "Start, shut down (ACPI), stop (hard), reboot, reset, pause or resume a VM.",
        views.act,
        (Reply(200, "It was done; shutdown and reboot have been asked of the guest.", "Vm", headers=("ETag",)), LATER),
        (404, 409, 412, 413, 415),
        names=(VM, ACTION),
        headers=CHANGES,
    ),
    _settle("accept", "acceptVm", "Make libvirt's definition, changed by hand, the wish.", views.accept),
    _settle("restore", "restoreVm", "Define the wish again, over what was changed by hand.", views.restore),
    _read(
        "/v1/vms/{id}/rules", "showRules", "The rules of a VM, and what they let in and out.", views.rules, "Rules", VM
    ),
    _read(
        "/v1/vms/{id}/ports", "showPorts", "The ports of the host that lead to a VM.", inward.show_ports, "PortList", VM
    ),
    Route(
        "PUT",
        "/v1/vms/{id}/ports",
        "putPorts",
        Role.ADMIN,
        "Have these ports of the host lead to a VM, and no others; all or nothing. They go with the VM.",
        inward.put_ports,
        (Reply(200, "It is so.", "PortList", headers=("ETag",)),),
        (404, 409, 412, 413, 415),
        names=(VM,),
        headers=(PORTS_MATCH,),
        body="PortsSpec",
    ),
    _read(
        "/v1/vms/{id}/timeline",
        "showTimeline",
        "What happened to a VM, there or gone, oldest first; the end of its console for the role operate only.",
        views.timeline,
        "Timeline",
        VM,
    ),
    Route(
        "GET",
        "/v1/vms/{id}/domain.xml",
        "showDomain",
        Role.OPERATE,
        "The domain XML as libvirt has it.",
        views.domain_xml,
        (Reply(200, "The XML, without secrets.", media=XML),),
        (404,),
        names=(VM,),
    ),
    Route(
        "GET",
        "/v1/vms/{id}/console",
        "showConsole",
        Role.OPERATE,
        "What the guest wrote to its serial console.",
        views.console,
        (Reply(200, "The end of the log, as the guest wrote it: with control characters.", media=TEXT),),
        (404,),
        names=(VM,),
        query=(views.TAIL,),
    ),
    Route(
        "POST",
        "/v1/vms/{id}/qmp",
        "askQmp",
        Role.OPERATE,
        "Send a QMP command to a VM's qemu. Those that only look need the role operate, all others admin.",
        monitor.qmp,
        (Reply(200, "What qemu returned. libvirt now calls the domain tainted.", "QmpReturn"),),
        (404, 409, 413, 415),
        names=(VM,),
        body="QmpCommand",
    ),
    Route(
        "POST",
        "/v1/vms/{id}/hmp",
        "askHmp",
        Role.OPERATE,
        "Send an HMP command to a VM's qemu. Those that only look need the role operate, all others admin.",
        monitor.hmp,
        (Reply(200, "What qemu answered. libvirt now calls the domain tainted.", "HmpOutput"),),
        (404, 409, 413, 415),
        names=(VM,),
        body="HmpCommand",
    ),
    Route(
        "GET",
        "/v1/vms/{id}/status",
        "lookAtVm",
        Role.OPERATE,
        "Look at a VM afresh: in libvirt, in /proc, and by asking its qemu.",
        views.look,
        (Reply(200, "What each of them says. Where qemu was asked, libvirt now calls the domain tainted.", "Look"),),
        (404,),
        names=(VM,),
    ),
    Route(
        "GET",
        "/v1/events",
        "followEvents",
        Role.READ,
        "What happens to VMs, as server-sent events, until one of the two goes.",
        events.events,
        (Reply(200, "Events; those after Last-Event-ID first.", media=events.STREAM),),
        query=(events.VM,),
        headers=(events.LAST,),
    ),
    _read("/v1/vpcs", "listVpcs", "All VPCs, by name.", views.list_vpcs, "VpcList"),
    _read("/v1/vpcs/{name}", "showVpc", "One VPC, with its subnets.", views.show_vpc, "Vpc", VPC),
    Route(
        "PUT",
        "/v1/vpcs/{name}",
        "putVpc",
        Role.ADMIN,
        "Want this of a VPC: its way out, DNS, MTU, metadata; all or nothing. What is left out is as set.",
        vpcs.put_vpc,
        (Reply(200, "It is so.", "Vpc"),),
        (404, 409, 413, 415),
        names=(VPC,),
        body="VpcSettings",
    ),
    Route(
        "DELETE",
        "/v1/vpcs/{name}",
        "deleteVpc",
        Role.ADMIN,
        "Forget what was wanted of a VPC: it is as the agent's settings have it. Its VMs stay.",
        vpcs.delete_vpc,
        (Reply(204, "It is forgotten."),),
        (404, 409, 413, 415),
        names=(VPC,),
    ),
    _read("/v1/floating", "listFloating", "The floating addresses, in order.", inward.list_floating, "FloatingList"),
    _read(
        "/v1/floating/{address}",
        "showFloating",
        "Where a floating address is led.",
        inward.show_floating,
        "Floating",
        ADDRESS,
    ),
    Route(
        "PUT",
        "/v1/floating/{address}",
        "putFloating",
        Role.ADMIN,
        "Lead an address of the host's network to a VM, wherever it was led before. Not for tokens limited to VPCs.",
        inward.put_floating,
        (Reply(200, "It is so.", "Floating"),),
        (404, 409, 413, 415),
        names=(ADDRESS,),
        body="FloatingSpec",
    ),
    Route(
        "DELETE",
        "/v1/floating/{address}",
        "deleteFloating",
        Role.ADMIN,
        "Lead an address nowhere. Not for tokens limited to VPCs.",
        inward.delete_floating,
        (Reply(204, "It is free."),),
        (404, 409, 413, 415),
        names=(ADDRESS,),
    ),
    _read("/v1/subnets", "listSubnets", "All subnets, by name.", views.list_subnets, "SubnetList"),
    _read("/v1/subnets/{name}", "showSubnet", "One subnet.", views.show_subnet, "Subnet", SUBNET),
    _read("/v1/peerings", "listPeerings", "All peerings of VPCs.", peerings.list_all, "PeeringList"),
    _read(
        "/v1/peerings/{a}/{b}",
        "showPeering",
        "One peering, and how it stands; a and b in any order.",
        peerings.show,
        "Peering",
        *PAIR,
    ),
    Route(
        "PUT",
        "/v1/peerings/{a}/{b}",
        "putPeering",
        Role.ADMIN,
        "Let two VPCs with disjoint prefixes route to each other. A token must be for both.",
        peerings.put,
        (
            Reply(
                201,
                "They are peered; the link is there as soon as both have a VM here.",
                "Peering",
                headers=("Location",),
            ),
            Reply(200, "They were already.", "Peering"),
        ),
        (404, 409, 413, 415),
        names=PAIR,
    ),
    Route(
        "DELETE",
        "/v1/peerings/{a}/{b}",
        "deletePeering",
        Role.ADMIN,
        "Let two VPCs route to each other no more; flows between them end.",
        peerings.delete,
        (Reply(204, "They are not peered."),),
        (404, 413, 415),
        names=PAIR,
    ),
    Route(
        "GET",
        "/v1/explain",
        "explain",
        Role.READ,
        "Whether a flow is allowed, and what decides: the way of its first packet, as the wishes say it goes.",
        explain.explain,
        (Reply(200, "The walk.", "Explained"),),
        (404, 409),
        query=explain.QUERY,
    ),
    Route(
        "POST",
        "/v1/explain",
        "explainLive",
        Role.OPERATE,
        "The same, and the packet is sent, as from the port of its sender; it is taken out again before it arrives.",
        explain.explain_live,
        (Reply(200, "The walk, and what became of the packet.", "Explained"),),
        (404, 409, 413, 415),
        query=explain.QUERY,
    ),
    _read("/v1/images", "listImages", "The images that volumes can be made from.", views.list_images, "ImageList"),
    Route(
        "POST",
        "/v1/plan",
        "plan",
        Role.ADMIN,
        "What PUT would do with this spec, as texts; touches nothing.",
        views.plan,
        (Reply(200, "The plan.", "Plan"),),
        (409, 413, 415),
        body="VmSpec",
    ),
    Route(
        "GET",
        "/v1/strays",
        "listStrays",
        Role.OPERATE,
        "qemu processes and objects of the agent's that nobody wants. Not for tokens limited to VPCs.",
        strays.list_strays,
        (Reply(200, "The strays.", "Strays"),),
    ),
    Route(
        "POST",
        "/v1/strays/{pid}/kill",
        "killStray",
        Role.ADMIN,
        "End a stray: SIGTERM, then SIGKILL. It must be that process still, and a stray still.",
        strays.kill,
        (Reply(200, "It has ended; as it was before.", "Stray"),),
        (404, 409, 413, 415),
        names=(PID,),
        body="StrayIdentity",
    ),
    Route(
        "POST",
        "/v1/sweep",
        "sweep",
        Role.ADMIN,
        "Compare all that is there with all that is wanted, now. Not for tokens limited to VPCs.",
        strays.sweep,
        (Reply(200, "It was done.", "Sweep"),),
        (413, 415),
        query=(strays.FORCE,),
    ),
    _read("/v1/operations", "listOperations", "What is under way, or was.", views.list_operations, "OperationList"),
    Route(
        "GET",
        "/v1/operations/{id}",
        "showOperation",
        Role.READ,
        "How an operation stands.",
        views.show_operation,
        (Reply(200, "The operation; when it failed, with the problem.", "Operation"),),
        (404,),
        names=(OPERATION,),
        query=(views.WAIT, views.SEEN),
    ),
    Route(
        "GET",
        "/healthz",
        "health",
        None,
        "Whether the agent answers at all; it tells nothing else, and anybody may ask.",
        views.healthz,
        (Reply(200, "It does.", "Health"),),
    ),
    metrics.ROUTE,
    Route(
        "GET",
        "/readyz",
        "readiness",
        Role.READ,
        "Whether the agent can serve.",
        views.readyz,
        (
            Reply(200, "It can.", "Readiness"),
            Reply(503, "It cannot yet, or not any more; checks say why.", "Readiness", headers=("Retry-After",)),
        ),
    ),
)
