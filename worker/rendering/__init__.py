"""Everything that touches torch, behind one interface; what the other rooms import of it does without."""
