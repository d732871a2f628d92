"""How results are shown: terminal, plots and HTML. A leaf: it imports no other room."""
