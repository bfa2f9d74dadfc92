"""lvagent: VMs over HTTP on libvirt hosts, in VPCs made of network namespaces."""

__version__ = "0.1.0"
