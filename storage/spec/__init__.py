"""What can be requested: controls, one picture's specification, models, capabilities and the registry."""
