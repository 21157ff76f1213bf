"""What outlives a process, and every contract between processes: rows, objects, messages."""
