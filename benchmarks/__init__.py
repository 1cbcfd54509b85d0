"""Infinitypool against its peers: ``python -m benchmarks.run``.

``cases`` is the list of what is measured and the bar that each row has to reach, ``peers`` the
libraries that it is measured against, ``timing`` how, ``report`` what is written.
"""
