"""The command seam, files, namespaces, links, filters, daemons, libvirt: all effects are in here."""
