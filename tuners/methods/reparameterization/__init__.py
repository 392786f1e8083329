"""Methods that train a low-rank or otherwise reparameterized update of the weights."""
