"""Downloads, prepared slides, their graphs and tiles.

`prepare` turns downloads into prepared slides with the help of `readers` and `writers`. The modules of this folder hold
a prepared slide in memory, and derive its graph and tiles. Imports go from `in_memory` and `prepare` to `readers` and
`writers`, and from those to the modules of this folder.
"""
