"""What becomes of finished pictures: download, contact sheets, comparison, purge."""
