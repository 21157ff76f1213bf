"""A whole farm on this machine, the server that it starts, and the doctor."""
