"""Claims jobs, renders them on a device, publishes the pictures. No web, no scheduling."""
