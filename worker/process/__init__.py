"""The processes of a GPU machine: a supervisor, and for each device a parent and the child that owns the device."""
