"""Everything that touches torch, behind one protocol (`backend`); what other rooms import works without torch."""
