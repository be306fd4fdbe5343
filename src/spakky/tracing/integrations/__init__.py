"""One module for each client library, all with the same nouns and verbs.

`wrap` (and `unwrap`) what sends, `headers` and `retry_headers` for a send by hand, `consumer` and
`batch_consumer` for handlers, `iterate` for loops, `process` and `process_batch` for `with` blocks,
`context_from` to look only, `configure` for options of all of them. Frameworks with hooks of their own have
`install` and `uninstall`, or a `TraceMiddleware`. The options are those of
`spakky.tracing.boundaries.options`. `logging`, `structlog` and `loguru` put the ids of the current trace into
lines of a log.

Importing a module imports its client library; the extra of the same name installs it.
"""
