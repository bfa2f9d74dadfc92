"""The doctor: is this host as lvagent needs it, and is on it what the specs call for?

Facts are gathered in ``host``, judged here by pure functions (facts in, findings out), and repaired in ``repair``.
"""
