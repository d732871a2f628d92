"""The one loop over tiles after training; embed, predict, evaluate and simulate stand on it."""
