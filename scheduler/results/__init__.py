"""What happens to finished pictures: download, contact sheets, comparison, purge."""
