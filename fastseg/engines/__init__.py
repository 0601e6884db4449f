"""Where work runs: in this process, in processes of this machine, on a Ray cluster.

`distributed` joins processes that train together; `launch` starts them on this machine.
"""
