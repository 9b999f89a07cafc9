"""The stages, one file each. `entry` is the way into all of them; `ordered` and `answering` serve some."""
