"""The commands of the command line. They ask the agent over its socket and know nothing of libvirt."""
