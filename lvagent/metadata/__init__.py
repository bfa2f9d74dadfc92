"""The metadata service: a process of its own without privileges."""
