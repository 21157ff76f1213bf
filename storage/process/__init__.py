"""What every process of the farm needs: logs, and ending with the process that started it."""
