"""What the farm's processes share: logging, the service loop, keeping child processes, ending with one's parent."""
