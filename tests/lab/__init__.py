"""A libvirt host of our own, made of namespaces on this machine."""
