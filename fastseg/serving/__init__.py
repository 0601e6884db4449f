"""`fastseg serve`: exports behind an HTTP interface, for other programs. Needs the extra `serve`.

A request passes `entrance` (id, key, log, metrics), `bodies` (the image, within its limits),
`batching` (queue, threads, batches) and `answers` (what was asked for, as bytes). `exports` loads
exports and replaces them while it runs. `service` joins all that, `app` has the routes, `server`
the port and the end.
"""
