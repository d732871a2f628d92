"""Files that several processes may write: their owners, files that are not yet complete, and locks."""
