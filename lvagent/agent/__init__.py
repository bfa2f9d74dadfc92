"""The agent: put, delete, power, converge, sweep.

index     what we know of every VM of ours, in memory, filled from libvirt
locks     a lock per VM (in this process), a flock per VPC (shared with the hook working alone)
networks  one VPC made as its members want it: observe, subtract, apply
vms       put and delete of one VM, all or nothing
power     start, shutdown, stop, reboot, reset, pause, resume
plug      what the hook asks for: the taps of a VM that is starting
recover   the sweep: libvirt and the host compared with the wish, and brought together
views     what callers are told
"""
