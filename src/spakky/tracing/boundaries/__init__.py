"""Where a message leaves and where it arrives, for any broker.

`publish` decides which context is sent, `process` which one is current while a message is processed;
`handler` and `iteration` are two ways to reach the second. An integration describes its library as a
`client.Client` and delegates. `log_fields` says to which trace a line of a log belongs.
"""
