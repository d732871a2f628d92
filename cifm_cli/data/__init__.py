"""From a download to a prepared slide, and from a prepared slide to tiles."""
