"""One file per benchmark family: where rows come from, how a row becomes a Doc."""
