"""From a download to a prepared slide: filters, gene ids, units, checks, splits and the quality report."""
