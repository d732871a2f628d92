"""The steps of `cifm run`: which of them are done, and which have to run, or to continue."""
