"""What can be asked for: controls, one picture's specification, models, capabilities and the registry."""
