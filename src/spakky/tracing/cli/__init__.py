"""The commands `explain`, `view` and `tail`; what is promised is what they do, not the modules in here.

They need the extra `cli` (click and rich), and `tail` the client library of the broker that it watches.
"""
