"""Where work runs: in this process, in processes of this machine, on a Ray cluster.

An engine starts workers, hands them jobs, and gives a job of a worker that died to another one. It
knows nothing about images. `base` says what engines and work are; `choice` makes the one asked for.
`distributed` joins processes that train together; `launch` starts them on this machine.
"""
