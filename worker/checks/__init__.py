"""`farm models check`: proves on this machine's device what the farm promises of a model, and measures it."""
