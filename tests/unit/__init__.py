"""Values and rules, without any server."""
