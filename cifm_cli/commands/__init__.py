"""One thin file per subcommand: parse, call one function, show the result. No arithmetic here."""
