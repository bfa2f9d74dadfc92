#!/bin/sh
# lvagent: puts the taps of its VMs into their VPCs. Written by "lvagent hook install"; changes are lost.
#
# libvirt calls it as: lvagent DOMAIN OPERATION SUBOPERATION EXTRA, with the domain's XML on standard input. At "start
# begin" the taps are there and qemu does not run yet. Exit code 1 refuses the start, with the reason on standard error.
# Only programs in /usr/bin are run: libvirtd's AppArmor profile, in which hooks run, has no others. libvirt waits for a
# hook without a time limit, so there is one here.

case "$1/$2/$3" in
    i-[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]/start/begin) ;;
    *) exit 0 ;;
esac

PATH=/usr/bin
LC_ALL=C
export PATH LC_ALL

refuse() {
    printf 'lvagent: %s\n' "$1" >&2
    exit 1
}

seconds() {
    read -r now _ </proc/uptime && now=${now%%.*}
}

newline='
'
seconds && began=$now || refuse 'cannot read the clock'
xml=$(/usr/bin/cat)

# --disable comes first: no .curlrc is read.
answer=$(printf '%s' "$xml" | /usr/bin/curl --disable --silent --noproxy '*' --max-time 6.0 \
    --unix-socket /run/lvagent/hook.sock --header 'Content-Type: application/xml' --header 'Expect:' \
    --data-binary @- --write-out '\n%{http_code}' "http://lvagent/hook/start/$1")
ended=$?

# 28: it hangs, and may still do the work. Any other failure: there is no agent, or it ended; then this host can do it
# from the XML alone.
case $ended in
    0)
        reason=${answer%%"$newline"*}
        case ${answer##*"$newline"} in
            2??) exit 0 ;;
            *) refuse "${reason:-the agent says no, and not why}" ;;
        esac
        ;;
    28) refuse 'the agent does not answer' ;;
esac

seconds
left=$((10 - 1 - (now - began)))
[ "$left" -gt 0 ] || refuse 'there is no time left to go on without the agent'
printf '%s' "$xml" | /usr/bin/timeout --signal=KILL "$left" /usr/bin/python3 -I -c 'import sys; sys.path[:0] = ['"'"'/usr/lib/lvagent'"'"']; from lvagent.hook import main; main()' start "$1"
ended=$?
case $ended in
    0) exit 0 ;;
    124 | 137) refuse "the port could not be plugged within $left s" ;;
    *) exit 1 ;;
esac
