"""The views: parse, call, dump. They know no Flask, and decide nothing about VMs."""

from __future__ import annotations

import re
import time
from http import HTTPStatus

from lvagent.api import dump
from lvagent.api.contract import TEXT, XML, Answer, Call, answer, choice, nothing, number, whole
from lvagent.api.limited import check_networks, scope_of, sees_operation, veiled
from lvagent.api.operations import Operation, Progress, Result
from lvagent.api.problems import RETRY_SECONDS, HttpError
from lvagent.api.protocol import Watch
from lvagent.errors import NotFound, SpecError, Unavailable
from lvagent.spec.access import Role
from lvagent.spec.json import load
from lvagent.spec.parse import parse_vm
from lvagent.spec.status import CONSOLE, Action, Outcome, PhaseTime, PutResult, Settling, VmStatus
from lvagent.spec.vm import VmConfig

MAX_WAIT = 60
MAX_TAIL = 1 << 20

GRACE = number("grace", 0, 0, 3600, "seconds that the guest gets to shut down by itself before it is stopped")
VOLUMES = choice("volumes", "keep", ("keep", "delete"), "delete: also the volumes that the agent made for this VM")
TAIL = whole("tail", 65_536, 1, MAX_TAIL, "bytes from the end of the log")
WAIT = number("wait", 0, 0, MAX_WAIT, "seconds to wait for the end of the operation before answering")
SEEN = whole("seen", None, 0, 1000, "do not wait longer than until there are more phases than these")


# what changes


def put_vm(call: Call) -> Answer:
    """PUT /v1/vms/{id}"""
    begin = time.perf_counter()
    spec = spec_of(call)
    if spec.id != call.path["id"]:
        raise SpecError("id", f"the path says {call.path['id']}, the body {spec.id}", "they must be the same")
    return _put(call, spec, begin, create_only=False)


def create_vm(call: Call) -> Answer:
    """POST /v1/vms"""
    begin = time.perf_counter()
    return _put(call, spec_of(call), begin, create_only=True)


def spec_of(call: Call) -> VmConfig:
    """The spec in the body, if it stays where the caller may go.

    :raise SpecError: it is none.
    :raise Forbidden: it leads out of the caller's VPCs.
    """
    document = load(call.body, max_bytes=call.settings.api.max_body)
    spec = parse_vm(document, user_data_max=call.settings.metadata.user_data_max)
    call.trail.subject = spec.id
    check_networks(call.caller, spec)
    return spec


def _put(call: Call, spec: VmConfig, begin: float, *, create_only: bool) -> Answer:
    def work(watch: Watch) -> Result:
        _check_preconditions(call, spec.id)
        return call.agent.put(spec, create_only=create_only, watch=watch)

    parsed = PhaseTime("parse", round((time.perf_counter() - begin) * 1000, 2))
    same = (spec, call.headers.get("if-match"), call.headers.get("if-none-match"), call.caller.vpcs)
    vpcs = {*spec.vpcs, *_vpcs(call, spec.id)}
    operation = call.operations.submit("put", spec.id, work, vpcs=vpcs, lane=call.lane, same=same, phases=[parsed])
    return _settle(call, operation)


def delete_vm(call: Call) -> Answer:
    """DELETE /v1/vms/{id}"""
    vm, grace, volumes = call.path["id"], GRACE.of(call.query), VOLUMES.of(call.query) == "delete"
    _check_empty(call)

    def work(watch: Watch) -> Result:
        _check_preconditions(call, vm)
        call.agent.delete(vm, grace=grace, volumes=volumes, watch=watch)
        return None

    _check_there(call, vm)
    return _settle(call, call.operations.submit("delete", vm, work, vpcs=_vpcs(call, vm), lane=call.lane))


def act(call: Call) -> Answer:
    """POST /v1/vms/{id}/{action}"""
    vm, action = call.path["id"], Action(call.path["action"])
    _check_empty(call)
    _check_there(call, vm)

    def work(_watch: Watch) -> Result:
        _check_preconditions(call, vm)
        return call.agent.power(vm, action)

    return _settle(call, call.operations.submit(action.value, vm, work, vpcs=_vpcs(call, vm), lane=call.lane))


def accept(call: Call) -> Answer:
    """POST /v1/vms/{id}/accept"""
    return _settled(call, Settling.ACCEPT)


def restore(call: Call) -> Answer:
    """POST /v1/vms/{id}/restore"""
    return _settled(call, Settling.RESTORE)


def _settled(call: Call, how: Settling) -> Answer:
    vm = call.path["id"]
    _check_empty(call)
    _check_there(call, vm)
    call.need(Role.ADMIN, "what was changed by hand on the host")

    def work(_watch: Watch) -> Result:
        _check_preconditions(call, vm)
        return call.agent.settle(vm, how)

    return _settle(call, call.operations.submit(how.value, vm, work, vpcs=_vpcs(call, vm), lane=call.lane))


def _vpcs(call: Call, vm: str) -> frozenset[str]:
    """The VPCs that a VM is in, as far as the caller sees it, or will be when what is under way is done."""
    coming = [one.vpcs for one in call.operations.queued(vm) if sees_operation(call.caller, one)]
    try:
        return scope_of(call.agent.vm(vm)).union(*coming)
    except (NotFound, Unavailable):
        return frozenset().union(*coming)


def _check_there(call: Call, vm: str) -> None:
    """Say at once that a VM is not there, unless one is about to be."""
    if not any(sees_operation(call.caller, one) for one in call.operations.queued(vm)):
        call.agent.vm(vm)


def _check_empty(call: Call) -> None:
    if call.body and load(call.body, max_bytes=call.settings.api.max_body) != {}:
        raise SpecError("", "this request takes no body", "send none, or {}")


def _check_preconditions(call: Call, vm: str) -> None:
    """``If-Match: "<revision>"`` and ``If-None-Match: *``. Operations of one VM do not overlap: this is no race."""
    match, none_match = call.headers.get("if-match"), call.headers.get("if-none-match")
    if match is None and none_match is None:
        return
    try:
        there: VmStatus | None = call.agent.vm(vm)
    except NotFound:
        there = None
    if none_match is not None and none_match.strip() != "*":
        raise HttpError(412, "If-None-Match: only * is understood here", hint="* is: only if there is no such VM")
    if none_match is not None and there is not None:
        raise HttpError(412, f"If-None-Match: {vm} exists", hint="leave the header out to change it")
    tags = [] if match is None else [tag.strip() for tag in match.split(",")]
    if match is not None and (there is None or ("*" not in tags and _tag(there) not in tags)):
        found = "is not there" if there is None else f"has revision {there.revision}, not {match[:60]}"
        hint = f"GET /v1/vms/{vm} has the present revision in its ETag; look what was changed, then send that"
        raise HttpError(412, f"If-Match: {vm} {found}", hint="" if there is None else hint)


def _tag(status: VmStatus) -> str:
    return f'"{status.revision}"'


def _settle(call: Call, operation: Operation) -> Answer:
    """Wait as long as the client and the settings want; then the result, or where to ask for it."""
    call.trail.operation = operation.id
    call.seats.wait(operation, _patience(call))
    found = operation.view()
    if found.status is Progress.RUNNING:
        call.trail.unfinished = operation
        applied = (
            {"Preference_Applied": "respond-async"} if "respond-async" in call.headers.get("prefer", "").lower() else {}
        )
        location = f"/v1/operations/{operation.id}"
        return answer(202, dump.operation(found), Location=location, **applied)
    if found.error is not None:
        raise found.error
    match found.result:
        case PutResult(outcome=Outcome.CREATED) as put:
            location = f"/v1/vms/{put.status.spec.id}"
            return answer(201, dump.put(put), Location=location, ETag=_tag(put.status))
        case PutResult() as put:
            return answer(200, dump.put(put), ETag=_tag(put.status))
        case VmStatus() as status:
            return answer(200, dump.vm(status), ETag=_tag(status))
        case None:
            return nothing()


def _patience(call: Call) -> float:
    """Seconds to wait: the setting, or less if the client prefers so (RFC 7240)."""
    most = float(call.settings.api.wait)
    prefer = call.headers.get("prefer", "").lower()
    wish = re.search(r"(?:^|[,;\s])wait\s*=\s*([0-9]{1,4})", prefer)
    if wish:
        return min(most, float(wish[1]))
    return 0.0 if re.search(r"(?:^|[,;\s])respond-async(?:$|[,;\s])", prefer) else most


# what is told


def list_vms(call: Call) -> Answer:
    """GET /v1/vms"""
    return answer(200, dump.items([dump.vm(one) for one in call.agent.vms()]))


def show_vm(call: Call) -> Answer:
    """GET /v1/vms/{id}"""
    status = call.agent.vm(call.path["id"])
    return answer(200, dump.vm(status), ETag=_tag(status))


def look(call: Call) -> Answer:
    """GET /v1/vms/{id}/status"""
    return answer(200, dump.look(call.agent.look(call.path["id"])))


def rules(call: Call) -> Answer:
    """GET /v1/vms/{id}/rules"""
    return answer(200, dump.firewall(call.agent.rules(call.path["id"])))


def domain_xml(call: Call) -> Answer:
    """GET /v1/vms/{id}/domain.xml"""
    return Answer(HTTPStatus.OK, call.agent.domain_xml(call.path["id"]).encode(), XML)


def console(call: Call) -> Answer:
    """GET /v1/vms/{id}/console"""
    raw = call.agent.console_log(call.path["id"], TAIL.of(call.query))
    return Answer(HTTPStatus.OK, raw.decode(errors="replace").encode(), TEXT)


def timeline(call: Call) -> Answer:
    """GET /v1/vms/{id}/timeline"""
    found = call.agent.timeline(call.path["id"])
    full = call.caller.role.covers(Role.OPERATE)
    return answer(200, dump.items([dump.entry(one) for one in found if full or one.kind != CONSOLE]))


def list_vpcs(call: Call) -> Answer:
    """GET /v1/vpcs"""
    return answer(200, dump.items([dump.vpc(one) for one in call.agent.vpcs()]))


def show_vpc(call: Call) -> Answer:
    """GET /v1/vpcs/{name}"""
    return answer(200, dump.vpc(call.agent.vpc(call.path["name"])))


def list_subnets(call: Call) -> Answer:
    """GET /v1/subnets"""
    return answer(200, dump.items([dump.subnet(one) for one in call.agent.subnets()]))


def show_subnet(call: Call) -> Answer:
    """GET /v1/subnets/{name}"""
    return answer(200, dump.subnet(call.agent.subnet(call.path["name"])))


def list_images(call: Call) -> Answer:
    """GET /v1/images"""
    return answer(200, dump.items([dump.image(one) for one in call.agent.images()]))


def plan(call: Call) -> Answer:
    """POST /v1/plan"""
    return answer(200, dump.plan(call.agent.plan(spec_of(call))))


def list_operations(call: Call) -> Answer:
    """GET /v1/operations"""
    his = [one for one in call.operations.all() if sees_operation(call.caller, one)]
    return answer(200, dump.items([dump.operation(veiled(call.agent, one.view())) for one in his]))


def show_operation(call: Call) -> Answer:
    """GET /v1/operations/{id}"""
    operation = call.operations.get(call.path["id"])
    if sees_operation(call.caller, operation):
        call.seats.wait(operation, WAIT.of(call.query), SEEN.of(call.query))
    if not sees_operation(call.caller, operation):
        raise NotFound("operation", operation.id)
    return answer(200, dump.operation(veiled(call.agent, operation.view())))


def healthz(_call: Call) -> Answer:
    """GET /healthz"""
    return answer(200, {"status": "ok"})


def readyz(call: Call) -> Answer:
    """GET /readyz"""
    found = call.agent.readiness()
    if found.ready:
        return answer(200, dump.readiness(found))
    return answer(503, dump.readiness(found), Retry_After=str(RETRY_SECONDS))
