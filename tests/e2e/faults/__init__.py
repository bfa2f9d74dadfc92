"""Faults at every step: after each, a host on which a VM is wholly there or wholly gone."""
