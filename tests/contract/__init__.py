"""What every twin of a replaceable part must do: one suite each, run on all of them, on real servers."""
