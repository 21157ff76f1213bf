"""Finished renders as datasets: WebDataset shards, Parquet, or an image folder."""
