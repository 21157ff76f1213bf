"""From ticket to stored picture: claim, render, publish, and what keeps a worker honest meanwhile."""
