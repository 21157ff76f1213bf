"""Every statement that changes a job: submission, claim, recovery, and all moves between states."""
