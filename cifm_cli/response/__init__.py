"""The response of resident cells to an edit of their surroundings: which genes of which label change at which distance."""
