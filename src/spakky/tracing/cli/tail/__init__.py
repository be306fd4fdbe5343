"""Watches running traffic and says of each message what has become of its trace context.

Nothing is taken from anybody: no consumer group, no commit, no message out of a queue.
"""
