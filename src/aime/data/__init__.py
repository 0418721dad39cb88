"""Episodes of video and actions: collected, kept, and read as windows.

`collect` (with `policies`, `simulation`, `frames`, `rendering`, `workers`) makes them; `store` (with `episodes`,
`shards`, `index`) keeps them; `dataset` gives them to training. `formats` brings them from elsewhere and back.
"""
